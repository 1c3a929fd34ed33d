//! What waits for the committer: bounded by bytes, first come first served.
use crate::error::WriteError;
use crate::locked::locked;
use crate::plan::{Op, Outcome};
use crate::reserve::Reservation;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Called once with the result, on the committer's thread.
pub(crate) type Done = Box<dyn FnOnce(Result<Outcome, WriteError>) + Send>;

/// Something for the committer to do.
pub(crate) enum Work {
    /// One request; at most one record.
    Record(Box<Op>),
    /// Write the index file.
    Checkpoint,
    /// Close the active volume and begin another.
    Rotate,
    /// Forget the use of grants that were over a grace before this epoch.
    ForgetGrants(u64),
    /// Remove a volume out of which everything was moved.
    Retire(u64),
    /// Refuse everything from now on, for this reason.
    Stop(String),
}

/// A piece of work with whoever waits for it.
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) done: Done,
    /// Held until the result is known, so that the space is never promised twice.
    pub(crate) reservation: Option<Reservation>,
}

impl Job {
    pub(crate) fn bytes(&self) -> usize {
        match &self.work {
            Work::Record(op) => op.bytes(),
            _ => 512,
        }
    }

    /// Tells the result, after the reservation is given back.
    pub(crate) fn finish(self, result: Result<Outcome, WriteError>) {
        drop(self.reservation);
        (self.done)(result);
    }
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
}

impl Waiting {
    /// Jobs from the front, up to `bytes_max`; the first one even if it is longer, if `at_least_one`.
    fn take(&mut self, bytes_max: usize, at_least_one: bool) -> VecDeque<Job> {
        let mut taken = VecDeque::new();
        let mut bytes = 0;
        while let Some(job) = self.jobs.front() {
            bytes += job.bytes();
            if bytes > bytes_max && (!at_least_one || !taken.is_empty()) {
                break;
            }
            self.bytes -= job.bytes();
            taken.extend(self.jobs.pop_front());
        }
        taken
    }
}

/// The queue.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    bytes_max: usize,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    /// Adds a job; if the queue is full, waits (`wait`) or refuses: the job is then dropped unasked.
    pub(crate) fn push(&self, job: Job, wait: bool) -> Result<(), WriteError> {
        let bytes = job.bytes();
        let mut waiting = locked(&self.waiting);
        loop {
            if waiting.closed {
                return Err(WriteError::Closed);
            }
            // A job longer than the whole bound is let in alone.
            if waiting.bytes == 0 || waiting.bytes + bytes <= self.bytes_max {
                break;
            }
            if !wait {
                return Err(WriteError::Busy);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.bytes += bytes;
        waiting.jobs.push_back(job);
        self.changed.notify_all();
        Ok(())
    }

    /// Adds many jobs at one stroke, so that the committer sees them together; waits until they fit
    /// (or nothing else waits).
    pub(crate) fn push_all(&self, jobs: Vec<Job>) {
        let bytes: usize = jobs.iter().map(Job::bytes).sum();
        let mut waiting = locked(&self.waiting);
        while !waiting.closed && waiting.bytes > 0 && waiting.bytes + bytes > self.bytes_max {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.closed {
            drop(waiting);
            jobs.into_iter().for_each(|job| job.finish(Err(WriteError::Closed)));
            return;
        }
        waiting.bytes += bytes;
        waiting.jobs.extend(jobs);
        self.changed.notify_all();
    }

    /// Takes up to `bytes_max` of jobs, waiting for the first; `None` once closed and empty.
    pub(crate) fn take(&self, bytes_max: usize) -> Option<VecDeque<Job>> {
        let mut waiting = locked(&self.waiting);
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let taken = waiting.take(bytes_max, true);
        self.changed.notify_all();
        Some(taken)
    }

    /// Takes up to `bytes_max` more jobs, waiting for the first until `deadline`; possibly none.
    pub(crate) fn take_more(&self, bytes_max: usize, deadline: Instant) -> VecDeque<Job> {
        let mut waiting = locked(&self.waiting);
        while waiting.jobs.is_empty() && !waiting.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(waiting, left);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let taken = waiting.take(bytes_max, false);
        if !taken.is_empty() {
            self.changed.notify_all();
        }
        taken
    }

    /// Jobs waiting.
    pub(crate) fn len(&self) -> usize {
        locked(&self.waiting).jobs.len()
    }

    /// Lets nothing more in.
    pub(crate) fn close(&self) {
        locked(&self.waiting).closed = true;
        self.changed.notify_all();
    }

    /// After the committer died: nobody will finish what waits.
    pub(crate) fn abandon(&self) {
        self.close();
        let jobs = std::mem::take(&mut locked(&self.waiting).jobs);
        jobs.into_iter().for_each(|job| job.finish(Err(WriteError::Closed)));
    }
}
