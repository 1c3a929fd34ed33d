//! `echonet get`: a work's bytes into a file or to standard output.
//!
//! A file appears under its name only when it is whole and verified.

use std::{
    io,
    path::{Path, PathBuf},
};

use echonet_protocol::content_id::ContentId;

use super::{
    args::GetArgs,
    backend::Backend,
    output::Output,
    output_file::{Partial, SparseWriter, parent},
};
use crate::{
    datadir::DataDir,
    service::{Fetched, GetRequest, ServiceError, ServiceResult, Sink},
    units::ByteSize,
};

pub(super) async fn run(dir: &DataDir, args: GetArgs, output: &Output) -> ServiceResult<()> {
    let content = args.content_id.parse()?;
    let target = (!args.to_stdout()).then(|| target(&args, &content)).transpose()?;
    let backend = Backend::connect(dir, &args.network, "get").await?;
    let fetch = Fetch { backend: &backend, content, output };
    let outcome = match &target {
        None => fetch.to_sink(args.range, Box::new(tokio::io::stdout())).await,
        Some(target) if args.range.is_some() => {
            fetch.range_to_file(dir, args.range, target, args.force).await
        }
        Some(target) => fetch.whole_to_file(dir, target, args.force).await,
    };
    backend.close().await;
    let fetched = outcome?;
    output.result("fetched", &fetched, || words(&fetched, target.as_deref()));
    Ok(())
}

/// Where the content goes; refused early when something is there already.
fn target(args: &GetArgs, content: &ContentId) -> ServiceResult<PathBuf> {
    let target = args.output.clone().unwrap_or_else(|| content.to_string().into());
    let shown = target.display();
    if target.is_dir() {
        let text = format!("{shown} is a directory: name a file in it with -o");
        return Err(ServiceError::new("invalid", text));
    }
    if target.symlink_metadata().is_ok() && !args.force {
        return Err(exists(&target));
    }
    if !parent(&target).is_dir() {
        let parent = parent(&target).display();
        let text = format!("the directory {parent} does not exist: create it or choose another -o");
        return Err(ServiceError::new("invalid", text));
    }
    Ok(target)
}

fn exists(target: &Path) -> ServiceError {
    let text = format!(
        "{} exists already: pass --force to replace it, or choose another name with -o",
        target.display()
    );
    ServiceError::new("invalid", text)
}

fn words(fetched: &Fetched, target: Option<&Path>) -> String {
    let size = ByteSize(fetched.size);
    let rate = fetched.size as f64 / 1e6 / fetched.seconds.max(0.001);
    let place = target.map_or_else(|| "standard output".to_owned(), |t| t.display().to_string());
    let (seconds, sources) = (fetched.seconds, fetched.sources.len());
    format!("fetched {size} to {place} in {seconds:.1} s ({rate:.0} MB/s) from {sources} nodes")
}

fn disk(path: &Path) -> impl Fn(io::Error) -> ServiceError + use<'_> {
    move |error| {
        let text = match error.kind() {
            io::ErrorKind::AlreadyExists => return exists(path),
            io::ErrorKind::StorageFull => {
                format!(
                    "no space left for {}: free some, then run the same command",
                    path.display()
                )
            }
            _ => format!("cannot write {}: {error}", path.display()),
        };
        ServiceError::new("io", text)
    }
}

/// A fetch of one work.
struct Fetch<'a> {
    backend: &'a Backend,
    content: ContentId,
    output: &'a Output,
}

impl Fetch<'_> {
    async fn to_sink(&self, range: Option<(u64, u64)>, sink: Sink<'_>) -> ServiceResult<Fetched> {
        let request = GetRequest { content_id: self.content.to_string(), range };
        self.backend
            .run(self.output, |service, progress| service.get(request, sink, progress))
            .await
    }

    /// Fetches into a writer; what arrived is in the file also when it failed.
    async fn to_writer(
        &self,
        range: Option<(u64, u64)>,
        mut writer: SparseWriter,
        target: &Path,
    ) -> ServiceResult<Fetched> {
        let outcome = self.to_sink(range, Box::new(&mut writer)).await;
        let written = writer.finish().await.map_err(disk(target));
        // A full disk shows as a failed fetch too: its own words are better.
        let (_, fetched) = (written?, outcome?);
        Ok(fetched)
    }

    async fn range_to_file(
        &self,
        dir: &DataDir,
        range: Option<(u64, u64)>,
        target: &Path,
        force: bool,
    ) -> ServiceResult<Fetched> {
        let partial = Partial::fresh(&dir.partial_dir()?).map_err(disk(target))?;
        let writer = partial.writer(0).map_err(disk(target))?;
        match self.to_writer(range, writer, target).await {
            Ok(fetched) => finish(partial, target, force).await.map(|()| fetched),
            Err(error) => {
                partial.discard().map_err(disk(target))?;
                Err(error)
            }
        }
    }

    /// Fetches a whole work, from where an earlier fetch of it was cut off.
    async fn whole_to_file(
        &self,
        dir: &DataDir,
        target: &Path,
        force: bool,
    ) -> ServiceResult<Fetched> {
        let partials = dir.partial_dir()?;
        let partial = Partial::resumable(&partials, self.content).map_err(disk(target))?;
        let resumable = partial.is_some();
        let partial = match partial {
            Some(partial) => partial,
            None => Partial::fresh(&partials).map_err(disk(target))?,
        };
        let (partial, outcome) = self.fill(partial, target).await?;
        match outcome {
            Ok(fetched) => finish(partial, target, force).await.map(|()| fetched),
            Err(error) => {
                let kept = partial.len().map_err(disk(target))?;
                if kept == 0 || !resumable {
                    partial.discard().map_err(disk(target))?;
                } else {
                    let kept = ByteSize(kept);
                    self.output.say(&format!("{kept} are kept: the same command goes on there"));
                }
                Err(error)
            }
        }
    }

    /// Fetches what a partial file lacks; once from the start if that does not
    /// give the work.
    async fn fill(
        &self,
        partial: Partial,
        target: &Path,
    ) -> ServiceResult<(Partial, ServiceResult<Fetched>)> {
        let from = partial.resume_at().map_err(disk(target))?;
        if from > 0 {
            self.output.say(&format!("resuming at {}", ByteSize(from)));
            let writer = partial.writer(from).map_err(disk(target))?;
            let outcome = self.to_writer(Some((from, u64::MAX)), writer, target).await;
            match outcome {
                Ok(mut fetched) => {
                    let (partial, whole) = self.check(partial, target).await?;
                    if whole {
                        fetched.size += from;
                        return Ok((partial, Ok(fetched)));
                    }
                    self.output.say("what an earlier fetch left is damaged: starting over");
                    return self.start_over(partial, target).await;
                }
                // What is there is longer than the work.
                Err(error) if error.kind == "invalid" => {}
                Err(error) => return Ok((partial, Err(error))),
            }
        }
        self.start_over(partial, target).await
    }

    async fn start_over(
        &self,
        partial: Partial,
        target: &Path,
    ) -> ServiceResult<(Partial, ServiceResult<Fetched>)> {
        let writer = partial.writer(0).map_err(disk(target))?;
        let outcome = self.to_writer(None, writer, target).await;
        Ok((partial, outcome))
    }

    /// Whether the whole file is the work: what an earlier process wrote was
    /// verified then, but not what became of it on disk since.
    async fn check(&self, partial: Partial, target: &Path) -> ServiceResult<(Partial, bool)> {
        let content = self.content;
        blocking(move || partial.matches(content).map(|whole| (partial, whole)), target).await
    }
}

async fn finish(partial: Partial, target: &Path, force: bool) -> ServiceResult<()> {
    let to = target.to_owned();
    blocking(move || partial.move_to(&to, force), target).await
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
    target: &Path,
) -> ServiceResult<T> {
    let outcome = tokio::task::spawn_blocking(run).await.map_err(io::Error::other);
    outcome.and_then(|result| result).map_err(disk(target))
}
