//! Small matrices over GF(2^8), row by row in one vector. It never touches shard bytes.

use reed_solomon_erasure::galois_8;

/// A matrix with `columns` columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matrix {
    columns: usize,
    cells: Vec<u8>,
}

impl Matrix {
    /// Row r is r^0, r^1, ...; 0^0 is 1. `rows` is at most 256.
    pub(super) fn vandermonde(rows: usize, columns: usize) -> Self {
        let cells = (0..rows)
            .flat_map(|row| (0..columns).map(move |column| galois_8::exp(row as u8, column)))
            .collect();
        Self { columns, cells }
    }

    /// Copies of the given rows, in the given order.
    pub(super) fn select(&self, rows: impl Iterator<Item = usize>) -> Self {
        let cells = rows.flat_map(|row| self.row_slice(row..row + 1).iter().copied()).collect();
        Self { columns: self.columns, cells }
    }

    /// All cells, row after row.
    pub(super) fn all(&self) -> &[u8] {
        &self.cells
    }

    /// The cells of consecutive rows.
    pub(super) fn row_slice(&self, rows: std::ops::Range<usize>) -> &[u8] {
        &self.cells[rows.start * self.columns..rows.end * self.columns]
    }

    /// `self * right`; `right` has as many rows as `self` has columns.
    pub(super) fn times(&self, right: &Self) -> Self {
        let mut cells = Vec::with_capacity(self.cells.len() / self.columns * right.columns);
        for row in self.cells.chunks_exact(self.columns) {
            let mut sum = vec![0; right.columns];
            for (&factor, other) in row.iter().zip(right.cells.chunks_exact(right.columns)) {
                add_scaled(&mut sum, factor, other);
            }
            cells.extend_from_slice(&sum);
        }
        Self { columns: right.columns, cells }
    }

    /// The inverse of a square matrix by Gauss-Jordan elimination; `None` if it is singular.
    pub(super) fn inverse(&self) -> Option<Self> {
        let size = self.columns;
        // Each row with the identity's row appended: what turns the left half into the identity
        // turns the right half into the inverse.
        let mut rows: Vec<Vec<u8>> = self.cells.chunks_exact(size).map(<[u8]>::to_vec).collect();
        for (index, row) in rows.iter_mut().enumerate() {
            row.resize(2 * size, 0);
            row[size + index] = 1;
        }
        for column in 0..size {
            let pivot = (column..size).find(|&row| rows[row][column] != 0)?;
            rows.swap(column, pivot);
            let scale = galois_8::div(1, rows[column][column]);
            for cell in &mut rows[column] {
                *cell = galois_8::mul(*cell, scale);
            }
            let pivot_row = rows[column].clone();
            for (index, row) in rows.iter_mut().enumerate() {
                if index != column {
                    let factor = row[column];
                    add_scaled(row, factor, &pivot_row);
                }
            }
        }
        let cells = rows.iter().flat_map(|row| row[size..].iter().copied()).collect();
        Some(Self { columns: size, cells })
    }
}

/// `sum += factor * other`, cell by cell.
fn add_scaled(sum: &mut [u8], factor: u8, other: &[u8]) {
    for (cell, &value) in sum.iter_mut().zip(other) {
        *cell ^= galois_8::mul(factor, value);
    }
}
