//! One length-prefixed frame: little-endian u32 length, then the bytes.
//!
//! Reading never allocates more than twice what has arrived plus one step, whatever the length
//! claims.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Memory is taken in steps of this many bytes, or doubled, whichever is more.
const STEP_BYTES: usize = 16 * 1024;

/// Why a frame was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended before the frame began.
    #[error("the peer ended the stream without a frame")]
    Ended,
    /// The stream ended inside the frame.
    #[error("the stream ended after {got} of {want} bytes of a frame; the peer was cut off")]
    Truncated {
        /// Bytes that arrived.
        got: usize,
        /// Bytes that were announced.
        want: usize,
    },
    /// The frame is larger than allowed.
    #[error("a frame of {len} bytes; at most {max} are allowed here")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads one frame of at most `bytes_max` bytes.
///
/// # Errors
/// [`FrameError`].
pub async fn read_frame<R>(recv: &mut R, bytes_max: usize) -> Result<Vec<u8>, FrameError>
where
    R: AsyncRead + Unpin + Send,
{
    let mut header = [0; 4];
    let mut have = 0;
    while have < header.len() {
        match recv.read(&mut header[have..]).await? {
            0 if have == 0 => return Err(FrameError::Ended),
            0 => return Err(FrameError::Truncated { got: 0, want: header.len() }),
            n => have += n,
        }
    }
    // Where usize is narrower than u32, a length that does not fit is too large in any case.
    let len = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if len > bytes_max {
        return Err(FrameError::TooLarge { len, max: bytes_max });
    }
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let left = len - bytes.len();
        let step = left.min(STEP_BYTES.max(bytes.len()));
        bytes.reserve_exact(step);
        let mut part = (&mut *recv).take(step as u64);
        if part.read_buf(&mut bytes).await? == 0 {
            return Err(FrameError::Truncated { got: bytes.len(), want: len });
        }
    }
    Ok(bytes)
}

/// Writes one frame of at most `bytes_max` bytes.
///
/// # Errors
/// [`FrameError::TooLarge`] before anything is written, [`FrameError::Io`] otherwise.
pub async fn write_frame<W>(send: &mut W, bytes: &[u8], bytes_max: usize) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin + Send,
{
    let too_large = FrameError::TooLarge { len: bytes.len(), max: bytes_max };
    let Ok(len) = u32::try_from(bytes.len()) else { return Err(too_large) };
    if bytes.len() > bytes_max {
        return Err(too_large);
    }
    send.write_all(&len.to_le_bytes()).await?;
    send.write_all(bytes).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], max: usize) -> Result<Vec<u8>, FrameError> {
        futures::executor::block_on(read_frame(&mut &*bytes, max))
    }

    fn written(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        futures::executor::block_on(write_frame(&mut out, bytes, bytes.len())).unwrap();
        out
    }

    #[test]
    fn a_huge_length_is_refused_or_costs_no_more_than_what_arrives() {
        let huge = u32::MAX.to_le_bytes();
        assert!(matches!(read(&huge, 1 << 20), Err(FrameError::TooLarge { .. })));
        // A length within the bound, and ten bytes of it.
        let mut lying = (64u32 << 20).to_le_bytes().to_vec();
        lying.extend([7; 10]);
        let error = read(&lying, 64 << 20).unwrap_err();
        assert!(matches!(error, FrameError::Truncated { got: 10, .. }), "{error}");
    }

    #[test]
    fn ends_are_told_apart() {
        assert!(matches!(read(&[], 9), Err(FrameError::Ended)));
        assert!(matches!(read(&[1, 0], 9), Err(FrameError::Truncated { .. })));
        assert_eq!(read(&[0, 0, 0, 0], 0).unwrap(), b"");
    }

    #[test]
    fn too_large_writes_nothing() {
        let mut out = Vec::new();
        let outcome = futures::executor::block_on(write_frame(&mut out, &[1; 10], 9));
        assert!(matches!(outcome, Err(FrameError::TooLarge { len: 10, max: 9 })));
        assert!(out.is_empty());
    }

    /// Gives one byte a time and records the buffer it was offered.
    struct Dripping<'a>(&'a [u8], usize);

    impl AsyncRead for Dripping<'_> {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            self.1 = self.1.max(buf.remaining());
            if let Some((first, rest)) = self.0.split_first() {
                buf.put_slice(&[*first]);
                self.0 = rest;
            }
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn memory_grows_with_arrivals_only() {
        let mut lying = (64u32 << 20).to_le_bytes().to_vec();
        lying.extend(vec![7; 100]);
        let mut dripping = Dripping(&lying, 0);
        let outcome = futures::executor::block_on(read_frame(&mut dripping, 64 << 20));
        assert!(matches!(outcome, Err(FrameError::Truncated { got: 100, .. })));
        assert!(dripping.1 <= STEP_BYTES + 100, "offered a buffer of {}", dripping.1);
    }

    proptest! {
        #[test]
        fn frames_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..70_000)) {
            prop_assert_eq!(read(&written(&bytes), bytes.len()).unwrap(), bytes);
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = read(&bytes, 32) {
                prop_assert!(frame.len() <= 32);
            }
        }
    }
}
