//! One request's stream with patience: frames within a time, bulk bytes at a least rate.
//!
//! A stream that is dropped before [`NodeStream::finish`] is reset, so that a handler that failed
//! or panicked half-way never looks like a complete answer: QUIC streams end cleanly when dropped.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::endpoint::{RecvStream, SendStream};

use super::frame::{FrameError, read_frame, write_frame};
use crate::net::limits::StreamLimits;

/// Application error code of a stream that its writer gave up.
pub const ABORTED: u32 = 0x200;

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The frame could not be read or written.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A whole frame did not pass in time.
    #[error("a frame took longer than {waited_ms} ms; the peer is too slow or gone")]
    FrameTimeout {
        /// The bound.
        waited_ms: u64,
    },
    /// Nothing passed for long.
    #[error("no byte passed for {waited_ms} ms; the peer is stalled or gone")]
    Stalled {
        /// The bound.
        waited_ms: u64,
    },
    /// Bytes pass too slowly.
    #[error("{bytes} bytes in {elapsed_ms} ms is too slow; the stream was given up")]
    TooSlow {
        /// Bulk bytes so far.
        bytes: u64,
        /// Time since the first of them was waited for.
        elapsed_ms: u64,
    },
    /// The stream or its connection failed.
    #[error("the stream failed: {0}")]
    Failed(String),
}

#[derive(Debug, Default)]
struct Progress {
    since: Option<Instant>,
    bytes: u64,
}

impl Progress {
    fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn advance(&mut self, bytes: usize, limits: &StreamLimits) -> Result<(), StreamError> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let elapsed = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let least = limits.bulk_bytes_per_s_min.saturating_mul(elapsed_ms) / 1_000;
        if elapsed_ms > limits.bulk_grace_ms && self.bytes < least {
            return Err(StreamError::TooSlow { bytes: self.bytes, elapsed_ms });
        }
        Ok(())
    }
}

/// One request's stream; see the module's documentation.
#[derive(Debug)]
pub struct NodeStream {
    send: SendStream,
    recv: RecvStream,
    limits: StreamLimits,
    sent: Progress,
    received: Progress,
    finished: bool,
}

async fn within<T>(
    ms: u64,
    late: StreamError,
    work: impl Future<Output = Result<T, StreamError>> + Send,
) -> Result<T, StreamError> {
    match tokio::time::timeout(Duration::from_millis(ms), work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(late),
    }
}

impl NodeStream {
    /// Wraps the two halves.
    pub fn new((send, recv): (SendStream, RecvStream), limits: StreamLimits) -> Self {
        Self {
            send,
            recv,
            limits,
            sent: Progress::default(),
            received: Progress::default(),
            finished: false,
        }
    }

    /// Reads one frame of at most `bytes_max` bytes, within the frame's time.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn read_frame(&mut self, bytes_max: usize) -> Result<Vec<u8>, StreamError> {
        let waited_ms = self.limits.frame_ms_max;
        let late = StreamError::FrameTimeout { waited_ms };
        let recv = &mut self.recv;
        within(waited_ms, late, async { Ok(read_frame(recv, bytes_max).await?) }).await
    }

    /// Reads one frame that may take longer to come than frames usually do.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn read_frame_within(
        &mut self,
        bytes_max: usize,
        patience: Duration,
    ) -> Result<Vec<u8>, StreamError> {
        let waited_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let recv = &mut self.recv;
        let read = async { Ok(read_frame(recv, bytes_max).await?) };
        within(waited_ms, StreamError::FrameTimeout { waited_ms }, read).await
    }

    /// Writes one frame of at most `bytes_max` bytes, within the frame's time.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn write_frame(&mut self, bytes: &[u8], bytes_max: usize) -> Result<(), StreamError> {
        let waited_ms = self.limits.frame_ms_max;
        let late = StreamError::FrameTimeout { waited_ms };
        let send = &mut self.send;
        within(waited_ms, late, async { Ok(write_frame(send, bytes, bytes_max).await?) }).await
    }

    /// Reads some bulk bytes; `None` at the clean end.
    ///
    /// # Errors
    /// [`StreamError`]: also when the peer is slower than the least rate.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, StreamError> {
        self.received.begin();
        let waited_ms = self.limits.idle_ms_max;
        let recv = &mut self.recv;
        let read = async { recv.read(buf).await.map_err(|e| StreamError::Failed(e.to_string())) };
        let got = within(waited_ms, StreamError::Stalled { waited_ms }, read).await?;
        self.received.advance(got.unwrap_or(0), &self.limits)?;
        Ok(got)
    }

    /// Fills `buf` with bulk bytes. For the fastest transfer, read large buffers.
    ///
    /// # Errors
    /// [`StreamError`]; [`FrameError::Truncated`] inside it when the stream ends before.
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), StreamError> {
        let mut have = 0;
        while have < buf.len() {
            match self.read(&mut buf[have..]).await? {
                Some(n) => have += n,
                None => Err(FrameError::Truncated { got: have, want: buf.len() })?,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` as bulk bytes, without copying them into the connection's buffers.
    ///
    /// # Errors
    /// [`StreamError`]: also when the peer takes them slower than the least rate.
    pub async fn write_all(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        self.sent.begin();
        while !bytes.is_empty() {
            let waited_ms = self.limits.idle_ms_max;
            let send = &mut self.send;
            let left = std::slice::from_mut(&mut bytes);
            // Takes what was written off the front of `bytes`.
            let write = async {
                let written = send.write_many_chunks(&mut &mut *left).await;
                written.map_err(|e| StreamError::Failed(e.to_string()))
            };
            let n = within(waited_ms, StreamError::Stalled { waited_ms }, write).await?;
            self.sent.advance(n, &self.limits)?;
        }
        Ok(())
    }

    /// Ends what this side sends: everything has been said.
    pub fn finish(&mut self) {
        self.finished = true;
        // Fails only when the peer does not want the rest; there is nothing left to tell it.
        let _ = self.send.finish();
    }

    /// Finishes and waits until the peer has everything, so that the connection may be closed.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn finish_and_wait(&mut self) -> Result<(), StreamError> {
        self.finish();
        let waited_ms = self.limits.idle_ms_max;
        let send = &mut self.send;
        let all = async {
            send.stopped().await.map(drop).map_err(|e| StreamError::Failed(e.to_string()))
        };
        within(waited_ms, StreamError::Stalled { waited_ms }, all).await
    }

    /// Finishes what this side sends and tells the peer that the rest of its own is unwanted.
    pub(super) fn refuse_rest(&mut self, code: u32) {
        self.finish();
        // Fails only when the peer has sent everything already.
        let _ = self.recv.stop(code.into());
    }

    /// Gives the stream up with an application error code, in both directions.
    pub fn abort(&mut self, code: u32) {
        self.finished = true;
        // Both fail only when the stream has ended already.
        let _ = self.send.reset(code.into());
        let _ = self.recv.stop(code.into());
    }
}

impl Drop for NodeStream {
    fn drop(&mut self) {
        if !self.finished {
            self.abort(ABORTED);
        }
    }
}
