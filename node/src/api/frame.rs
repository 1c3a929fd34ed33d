//! Frames of a streamed answer: `u8 kind, u32 little-endian length, payload`.
//!
//! A stream ends with exactly one result or error frame. One that ends without
//! is an error, never a short success. A length is checked before anything is
//! allocated for it.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};

/// Most bytes of a payload.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 5;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A progress event, JSON.
    Progress = 1,
    /// Bytes of content, in order.
    Content = 2,
    /// The result, JSON. Last.
    Result = 3,
    /// The error, JSON. Last.
    Error = 4,
}

/// Why a stream of frames is not one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind that this software does not know.
    #[error("the daemon sent a frame of unknown kind {0}: it may run another version")]
    Kind(u8),
    /// A payload over the bound.
    #[error("a frame of {0} bytes passes the bound of {FRAME_BYTES_MAX}")]
    Length(usize),
    /// The stream stopped before a result.
    #[error("the daemon's answer stopped before its result: it may have been ended; try again")]
    Truncated,
    /// The connection failed.
    #[error("the connection to the daemon failed: {0}")]
    Connection(String),
}

/// One frame's bytes.
///
/// # Errors
/// [`FrameError::Length`] over the bound.
pub fn encode(kind: FrameKind, payload: &[u8]) -> Result<Bytes, FrameError> {
    let length = u32::try_from(payload.len()).map_err(|_| FrameError::Length(payload.len()))?;
    if payload.len() > FRAME_BYTES_MAX {
        return Err(FrameError::Length(payload.len()));
    }
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    frame.put_u8(kind as u8);
    frame.put_u32_le(length);
    frame.put_slice(payload);
    Ok(frame.freeze())
}

/// What a reader hands out.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// A whole progress event.
    Progress(Bytes),
    /// Some bytes of content: a frame's or a part of one.
    Content(Bytes),
    /// The whole result; nothing follows.
    Result(Bytes),
    /// The whole error; nothing follows.
    Error(Bytes),
}

/// Reads frames from a stream of byte blocks. Content passes through without
/// being gathered; only JSON payloads are held, each within the bound.
#[derive(Debug)]
pub struct FrameReader<S> {
    stream: S,
    block: Bytes,
    content_left: usize,
}

impl<S, E> FrameReader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    /// Reads from `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, block: Bytes::new(), content_left: 0 }
    }

    /// The next part. Not to be called after a result or an error.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is of no further use then.
    pub async fn next(&mut self) -> Result<Part, FrameError> {
        loop {
            if self.content_left > 0 {
                self.fill().await?;
                let length = self.content_left.min(self.block.len());
                self.content_left -= length;
                return Ok(Part::Content(self.block.split_to(length)));
            }
            let mut header = self.take(HEADER_BYTES).await?;
            let kind = header.get_u8();
            let length = header.get_u32_le() as usize;
            if length > FRAME_BYTES_MAX {
                return Err(FrameError::Length(length));
            }
            match kind {
                1 => return Ok(Part::Progress(self.take(length).await?)),
                2 => self.content_left = length,
                3 => return Ok(Part::Result(self.take(length).await?)),
                4 => return Ok(Part::Error(self.take(length).await?)),
                other => return Err(FrameError::Kind(other)),
            }
        }
    }

    /// Makes sure that the block is not empty.
    async fn fill(&mut self) -> Result<(), FrameError> {
        while self.block.is_empty() {
            self.block = match self.stream.next().await {
                Some(Ok(block)) => block,
                Some(Err(error)) => return Err(FrameError::Connection(error.to_string())),
                None => return Err(FrameError::Truncated),
            };
        }
        Ok(())
    }

    /// Exactly `length` bytes, at most the frame bound.
    async fn take(&mut self, length: usize) -> Result<Bytes, FrameError> {
        if self.block.len() >= length {
            return Ok(self.block.split_to(length));
        }
        let mut gathered = BytesMut::with_capacity(length);
        while gathered.len() < length {
            self.fill().await?;
            let part = self.block.len().min(length - gathered.len());
            gathered.put_slice(&self.block.split_to(part));
        }
        Ok(gathered.freeze())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use proptest::prelude::*;

    use super::*;

    /// Everything a reader says about `bytes` cut into blocks of `block`.
    fn read(bytes: &[u8], block: usize) -> (Vec<u8>, Vec<Vec<u8>>, Result<Part, FrameError>) {
        let blocks = bytes.chunks(block).map(|b| Ok::<_, String>(Bytes::copy_from_slice(b)));
        let mut reader = FrameReader::new(stream::iter(blocks.collect::<Vec<_>>()));
        let (mut content, mut events) = (Vec::new(), Vec::new());
        futures::executor::block_on(async {
            loop {
                match reader.next().await {
                    Ok(Part::Content(part)) => content.extend_from_slice(&part),
                    Ok(Part::Progress(event)) => events.push(event.to_vec()),
                    last => return (content, events, last),
                }
            }
        })
    }

    fn stream_of(frames: &[(FrameKind, &[u8])]) -> Vec<u8> {
        frames.iter().flat_map(|(kind, payload)| encode(*kind, payload).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_cut_into_blocks_reads_the_same(
            first in proptest::collection::vec(any::<u8>(), 0..600),
            second in proptest::collection::vec(any::<u8>(), 0..600),
            block in 1usize..700,
        ) {
            let bytes = stream_of(&[
                (FrameKind::Content, &first),
                (FrameKind::Progress, b"p"),
                (FrameKind::Content, &second),
                (FrameKind::Result, b"{}"),
            ]);
            let (content, events, last) = read(&bytes, block);
            prop_assert_eq!(content, [first, second].concat());
            prop_assert_eq!(events, vec![b"p".to_vec()]);
            prop_assert_eq!(last.unwrap(), Part::Result(Bytes::from_static(b"{}")));
        }
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error_and_never_a_short_success() {
        let bytes = stream_of(&[(FrameKind::Content, b"content"), (FrameKind::Result, b"{}")]);
        for cut in 0..bytes.len() {
            let (_, _, last) = read(&bytes[..cut], 4);
            assert!(matches!(last, Err(FrameError::Truncated)), "cut at {cut}: {last:?}");
        }
    }

    #[test]
    fn huge_lengths_and_unknown_kinds_are_refused_before_allocating() {
        let (_, _, last) = read(&[2, 0xff, 0xff, 0xff, 0xff], 5);
        assert!(matches!(last, Err(FrameError::Length(0xffff_ffff))), "{last:?}");
        let (_, _, last) = read(&[9, 0, 0, 0, 0], 5);
        assert!(matches!(last, Err(FrameError::Kind(9))), "{last:?}");
        assert!(encode(FrameKind::Content, &vec![0; FRAME_BYTES_MAX + 1]).is_err());
        assert!(encode(FrameKind::Content, &vec![0; FRAME_BYTES_MAX]).is_ok());
    }
}
