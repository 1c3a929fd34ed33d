//! What the drivers of all machines share: a monotonic clock, and attempts that
//! can be given up.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, Instant},
};

use echonet_protocol::machine::Millis;
use tokio::task::{AbortHandle, JoinSet};

/// Milliseconds since a driver began.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Millis {
        Millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// How long until a time of this clock.
    #[must_use]
    pub fn until(&self, at: Millis) -> Duration {
        Duration::from_millis(at.since(self.now()))
    }
}

/// Effects under way, each under a key by which it can be given up.
#[derive(Debug)]
pub struct Attempts<K, T> {
    tasks: JoinSet<(K, T)>,
    handles: BTreeMap<K, AbortHandle>,
}

impl<K: Ord + Copy + Send + 'static, T: Send + 'static> Default for Attempts<K, T> {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), handles: BTreeMap::new() }
    }
}

impl<K: Ord + Copy + Send + 'static, T: Send + 'static> Attempts<K, T> {
    /// Begins an effect.
    pub fn begin(&mut self, key: K, effect: impl Future<Output = T> + Send + 'static) {
        let handle = self.tasks.spawn(async move { (key, effect.await) });
        self.handles.insert(key, handle);
    }

    /// Gives one up; its result will not be reported.
    pub fn cancel(&mut self, key: &K) {
        if let Some(handle) = self.handles.remove(key) {
            handle.abort();
        }
    }

    /// The next result, or none when `at` comes first. Without a time and
    /// without anything under way it returns none at once.
    pub async fn next(&mut self, watch: &Stopwatch, at: Option<Millis>) -> Option<(K, T)> {
        loop {
            let sleep = async {
                match at {
                    Some(at) => tokio::time::sleep(watch.until(at)).await,
                    None => std::future::pending().await,
                }
            };
            if self.tasks.is_empty() && at.is_none() {
                return None;
            }
            tokio::select! {
                Some(done) = self.tasks.join_next() => {
                    // A cancelled or panicked effect reports nothing: the machine's own deadline
                    // for it stands.
                    let Ok((key, result)) = done else { continue };
                    self.handles.remove(&key);
                    return Some((key, result));
                }
                () = sleep => return None,
            }
        }
    }
}
