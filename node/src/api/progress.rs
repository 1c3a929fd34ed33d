//! Running an operation while its progress is handed on.

use futures::Future;
use tokio::sync::{mpsc, oneshot};

use crate::service::Progress;

/// Drives `run` to its end, meanwhile hands each event to `each`. Events sent
/// before the end are all handed on before this returns, and a sender that
/// outlives the operation does not keep it waiting.
pub async fn with_progress<T, F>(
    run: impl Future<Output = T>,
    mut events: mpsc::Receiver<Progress>,
    mut each: impl FnMut(Progress) -> F,
) -> T
where
    F: Future<Output = ()>,
{
    let (ended, mut end) = oneshot::channel::<()>();
    let run = async move {
        let outcome = run.await;
        drop(ended);
        outcome
    };
    let forward = async move {
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => each(event).await,
                    None => return,
                },
                _ = &mut end => break,
            }
        }
        events.close();
        while let Some(event) = events.recv().await {
            each(event).await;
        }
    };
    tokio::join!(run, forward).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_and_a_lingering_sender_does_not_block() {
        let (sender, events) = mpsc::channel(4);
        let lingering = sender.clone();
        let run = async move {
            for done in 0..20 {
                sender.send(Progress::Fetching { done, total: 20 }).await.unwrap();
            }
            "result"
        };
        let mut seen = Vec::new();
        let outcome = with_progress(run, events, |event| {
            seen.push(event);
            async {}
        })
        .await;
        assert_eq!(outcome, "result");
        assert_eq!(seen.len(), 20);
        assert!(lingering.is_closed());
    }
}
