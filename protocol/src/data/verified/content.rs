//! The outboard of a whole content at 1 MiB groups, split by manifest pages: a root part (the
//! nodes above the pages) and one part per page (the nodes inside its 1 GiB). Building needs the
//! groups' hashes only, so the hashing may be spread over threads; checking gives a list of group
//! hashes that are all proven, after which one MiB costs one hash to check.

use blake3::hazmat::left_subtree_len;
use thiserror::Error;

use super::tree::{Cv, ShapeError, parent_hash, split_pair, subtree_hash};
use crate::data::{CONTENT_BYTES_MAX, GROUP_BYTES, PAGE_BYTES, PAGE_GROUPS, PAIR_BYTES};

/// How a content of a certain length divides into groups and pages. The empty content has one
/// page with one (empty) group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentShape {
    len: u64,
}

impl ContentShape {
    /// The shape of a content of `len` bytes.
    ///
    /// # Errors
    /// [`ShapeError::TooLong`] above [`CONTENT_BYTES_MAX`].
    pub fn new(len: u64) -> Result<Self, ShapeError> {
        if len > CONTENT_BYTES_MAX {
            return Err(ShapeError::TooLong(len));
        }
        Ok(Self { len })
    }

    /// Bytes of the content.
    #[must_use]
    pub fn len(self) -> u64 {
        self.len
    }

    /// True for the empty content.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Groups of the content, at least one.
    #[must_use]
    pub fn groups(self) -> u64 {
        self.len.div_ceil(GROUP_BYTES).max(1)
    }

    /// Pages of the content, at least one.
    #[must_use]
    pub fn pages(self) -> u64 {
        self.len.div_ceil(PAGE_BYTES).max(1)
    }

    /// Groups of one page; 0 past the end.
    #[must_use]
    pub fn page_groups(self, page: u64) -> u64 {
        self.groups().saturating_sub(page.saturating_mul(PAGE_GROUPS)).min(PAGE_GROUPS)
    }

    /// Bytes of one group; 0 past the end.
    #[must_use]
    pub fn group_len(self, group: u64) -> u64 {
        self.len.saturating_sub(group.saturating_mul(GROUP_BYTES)).min(GROUP_BYTES)
    }

    /// Bytes of the root part: 64 for every page but one.
    #[must_use]
    pub fn root_part_len(self) -> usize {
        (self.pages() as usize - 1) * PAIR_BYTES
    }

    /// Bytes of one page's part: 64 for every group but one.
    #[must_use]
    pub fn page_part_len(self, page: u64) -> usize {
        (self.page_groups(page) as usize).saturating_sub(1) * PAIR_BYTES
    }
}

/// A group is not what the outboard says, or no group at all.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum GroupError {
    /// Not the length of this group.
    #[error("group {group} has {expected} bytes, {found} were given")]
    Length {
        /// Number of the group in the content.
        group: u64,
        /// Its length.
        expected: u64,
        /// What was given.
        found: u64,
    },
    /// The bytes are wrong.
    #[error("group {group} (MiB of the content) does not verify against the ContentID")]
    Mismatch {
        /// Number of the group in the content.
        group: u64,
    },
}

/// The hash of one group, as it enters the outboard: its chaining value, or the ContentID itself
/// when it is the only group. A pure function: spread it over threads as you like.
///
/// # Errors
/// [`GroupError::Length`] for more than 1 MiB, or for no bytes in any but the only group, or for
/// an only group that is not group 0.
pub fn group_cv(bytes: &[u8], group: u64, is_only_group: bool) -> Result<[u8; 32], GroupError> {
    let found = bytes.len() as u64;
    let is_possible = found <= GROUP_BYTES
        && (found > 0 || is_only_group)
        && (group == 0 || !is_only_group)
        && group < CONTENT_BYTES_MAX / GROUP_BYTES;
    if !is_possible {
        return Err(GroupError::Length { group, expected: GROUP_BYTES, found });
    }
    Ok(subtree_hash(group * GROUP_BYTES, bytes, is_only_group))
}

/// The part of the outboard that belongs into one manifest page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagePart {
    /// Number of the page.
    pub page: u64,
    /// Its inner nodes in pre-order.
    pub nodes: Vec<u8>,
}

/// A content's ContentID and the part of its outboard that belongs into the root page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentOutboard {
    /// The ContentID: BLAKE3 of all bytes.
    pub root: [u8; 32],
    /// The inner nodes above the pages, in pre-order; empty with a single page.
    pub root_part: Vec<u8>,
}

/// Groups were pushed that this content does not have, or not all of them.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("a content of {expected} groups got {found}: its length changed while it was read")]
pub struct BuilderError {
    /// Groups of the content.
    pub expected: u64,
    /// Groups pushed.
    pub found: u64,
}

/// Builds a content's outboard from the hashes of its groups, in order, in at most 64 KiB and
/// 32 bytes per page.
#[derive(Debug)]
pub struct ContentOutboardBuilder {
    shape: ContentShape,
    pushed: u64,
    groups: Vec<Cv>,
    pages: Vec<Cv>,
}

impl ContentOutboardBuilder {
    /// A builder for a content of this shape.
    #[must_use]
    pub fn new(shape: ContentShape) -> Self {
        Self { shape, pushed: 0, groups: Vec::new(), pages: Vec::new() }
    }

    /// Takes the next group's [`group_cv`]; returns the page's part after its last group.
    ///
    /// # Errors
    /// [`BuilderError`] for one group too many.
    pub fn push(&mut self, cv: [u8; 32]) -> Result<Option<PagePart>, BuilderError> {
        let page = self.pages.len() as u64;
        let page_groups = self.shape.page_groups(page);
        if page_groups == 0 {
            let expected = self.shape.groups();
            return Err(BuilderError { expected, found: expected + 1 });
        }
        self.pushed += 1;
        self.groups.push(cv);
        if (self.groups.len() as u64) < page_groups {
            return Ok(None);
        }
        let mut nodes = Vec::with_capacity(self.shape.page_part_len(page));
        self.pages.push(build(&self.groups, self.shape.pages() == 1, &mut nodes));
        self.groups.clear();
        Ok(Some(PagePart { page, nodes }))
    }

    /// All groups were pushed: the ContentID and the root part.
    ///
    /// # Errors
    /// [`BuilderError`] when groups are missing.
    pub fn finish(self) -> Result<ContentOutboard, BuilderError> {
        let expected = self.shape.groups();
        if self.pushed != expected {
            return Err(BuilderError { expected, found: self.pushed });
        }
        let mut root_part = Vec::with_capacity(self.shape.root_part_len());
        let root = build(&self.pages, true, &mut root_part);
        Ok(ContentOutboard { root, root_part })
    }
}

/// How many of `count` equal subtrees are in the left half of the tree over them.
fn left_count(count: usize) -> usize {
    (left_subtree_len(count as u64 * GROUP_BYTES) / GROUP_BYTES) as usize
}

/// Appends the pre-order nodes of the tree over `cvs`, at least one; returns its hash. A single
/// one is its own tree.
fn build(cvs: &[Cv], is_root: bool, out: &mut Vec<u8>) -> Cv {
    if let [only] = cvs {
        return *only;
    }
    let at = out.len();
    out.resize(at + PAIR_BYTES, 0);
    let (left, right) = cvs.split_at(left_count(cvs.len()));
    let left = build(left, false, out);
    let right = build(right, false, out);
    out[at..at + 32].copy_from_slice(&left);
    out[at + 32..at + PAIR_BYTES].copy_from_slice(&right);
    parent_hash(&left, &right, is_root)
}

/// A part of an outboard is wrong: its author's fault, whoever delivered it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum OutboardError {
    /// Not the length that this part has.
    #[error("outboard part of {found} bytes where {expected} are needed: the manifest is wrong")]
    Length {
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// No such page.
    #[error("page {page} of a content with {pages} pages")]
    Page {
        /// The page asked for.
        page: u64,
        /// Pages of the content.
        pages: u64,
    },
    /// A node's hashes do not give the hash promised above it.
    #[error("outboard node {node} does not verify: the manifest is wrong")]
    Node {
        /// Its place in this part, in pre-order.
        node: usize,
    },
}

/// The proven hashes of a content's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageCvs {
    shape: ContentShape,
    cvs: Vec<Cv>,
}

impl PageCvs {
    /// Checks a root part against the ContentID. The content's length is proven only once its
    /// last leaf is: see [`GroupCvs::verify`].
    ///
    /// # Errors
    /// [`OutboardError`]; a wrong length is refused before anything is allocated.
    pub fn verify(
        content_id: &[u8; 32],
        shape: ContentShape,
        root_part: &[u8],
    ) -> Result<Self, OutboardError> {
        let count = shape.pages() as usize;
        let cvs = check_part(content_id, root_part, count, true)?;
        Ok(Self { shape, cvs })
    }

    /// The shape that this was checked with.
    #[must_use]
    pub fn shape(&self) -> ContentShape {
        self.shape
    }

    /// Checks one page's part.
    ///
    /// # Errors
    /// [`OutboardError`]; a wrong length is refused before anything is allocated.
    pub fn verify_page(&self, page: u64, part: &[u8]) -> Result<GroupCvs, OutboardError> {
        let pages = self.shape.pages();
        let cv = usize::try_from(page).ok().and_then(|page| self.cvs.get(page));
        let expected = cv.ok_or(OutboardError::Page { page, pages })?;
        let count = self.shape.page_groups(page) as usize;
        let cvs = check_part(expected, part, count, pages == 1)?;
        Ok(GroupCvs { shape: self.shape, page, cvs })
    }
}

/// The proven hashes of the groups of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCvs {
    shape: ContentShape,
    page: u64,
    cvs: Vec<Cv>,
}

impl GroupCvs {
    /// Number of the page.
    #[must_use]
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Checks the bytes of one group, numbered in the whole content, against the ContentID.
    ///
    /// # Errors
    /// [`GroupError`]: these are not the bytes, or not a group of this page.
    pub fn verify(&self, group: u64, bytes: &[u8]) -> Result<(), GroupError> {
        let found = bytes.len() as u64;
        let expected = self.shape.group_len(group);
        let index = group.checked_sub(self.page * PAGE_GROUPS);
        let cv = index.and_then(|index| self.cvs.get(usize::try_from(index).ok()?));
        let (Some(cv), true) = (cv, expected == found) else {
            return Err(GroupError::Length { group, expected, found });
        };
        if group_cv(bytes, group, self.shape.groups() == 1)? != *cv {
            return Err(GroupError::Mismatch { group });
        }
        Ok(())
    }
}

/// Checks the nodes over `count` subtrees; returns the subtrees' hashes.
fn check_part(
    expected: &Cv,
    part: &[u8],
    count: usize,
    is_root: bool,
) -> Result<Vec<Cv>, OutboardError> {
    let needed = (count - 1) * PAIR_BYTES;
    let (nodes, rest) = part.as_chunks::<PAIR_BYTES>();
    if part.len() != needed || !rest.is_empty() {
        return Err(OutboardError::Length { expected: needed, found: part.len() });
    }
    let mut cvs = Vec::with_capacity(count);
    check(expected, nodes, (0, count), is_root, &mut cvs)?;
    Ok(cvs)
}

/// Checks the subtree over `count` children whose first node is `nodes[at]`.
fn check(
    expected: &Cv,
    nodes: &[[u8; PAIR_BYTES]],
    (at, count): (usize, usize),
    is_root: bool,
    out: &mut Vec<Cv>,
) -> Result<(), OutboardError> {
    if count == 1 {
        out.push(*expected);
        return Ok(());
    }
    let (left, right) = split_pair(&nodes[at]);
    if parent_hash(&left, &right, is_root) != *expected {
        return Err(OutboardError::Node { node: at });
    }
    let count_left = left_count(count);
    check(&left, nodes, (at + 1, count_left), false, out)?;
    check(&right, nodes, (at + count_left, count - count_left), false, out)
}
