//! One way to take a mutex.
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock, also after another thread panicked while holding it: what the vault guards so is
/// either replaced as a whole or rebuilt from the volumes.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
