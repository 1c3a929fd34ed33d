//! `echonet publish`: a file, or standard input, into the network.

use std::path::{Path, PathBuf};

use super::{args::PublishArgs, backend::Backend, output::Output, spool};
use crate::{
    datadir::DataDir,
    service::{PublishRequest, Published, ServiceError, ServiceResult},
    units::ByteSize,
};

pub(super) async fn run(dir: &DataDir, args: PublishArgs, output: &Output) -> ServiceResult<()> {
    let spooled = args.file == Path::new("-");
    let file = if spooled { None } else { Some(readable_file(&args.file)?) };
    // The network first: input that was read from a pipe cannot be read again.
    let backend = Backend::connect(dir, &args.network, "publish").await?;
    let outcome = publish(dir, &backend, file, &args, output).await;
    backend.close().await;
    let published = outcome?;
    output.result("published", &published, || words(&published));
    for note in &published.notes {
        output.say(&format!("note: {note}"));
    }
    Ok(())
}

async fn publish(
    dir: &DataDir,
    backend: &Backend,
    file: Option<PathBuf>,
    args: &PublishArgs,
    output: &Output,
) -> ServiceResult<Published> {
    let spooled = file.is_none();
    let path = match file {
        Some(path) => path,
        None => spool_stdin(dir.clone()).await?,
    };
    let media_type = args.media_type.clone();
    let request = PublishRequest { path: path.clone(), scheme: args.scheme, media_type, spooled };
    let outcome = backend.run(output, |service, progress| service.publish(request, progress)).await;
    outcome.map_err(|error| if spooled { kept(error, &path) } else { error })
}

/// What was read cannot be read again, so it is not thrown away.
fn kept(error: ServiceError, path: &Path) -> ServiceError {
    let text = format!(
        "{}\nwhat came from standard input is kept: `echonet publish {}` tries again, \
         removing that file gives up",
        error.message,
        path.display()
    );
    ServiceError { kind: error.kind, message: text }
}

async fn spool_stdin(dir: DataDir) -> ServiceResult<PathBuf> {
    let spooled = tokio::task::spawn_blocking(move || spool::spool(&dir, std::io::stdin().lock()));
    spooled.await.map_err(|error| ServiceError::new("internal", error))?
}

/// The absolute path of a file that can be read.
fn readable_file(path: &Path) -> ServiceResult<PathBuf> {
    let refuse = |kind: &str, what: &str| {
        let text = format!("cannot publish {}: {what}", path.display());
        ServiceError::new(kind, text)
    };
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            refuse("io", "there is no such file; check the path, or use - for standard input")
        }
        _ => refuse("io", &error.to_string()),
    })?;
    let metadata = file.metadata().map_err(|error| refuse("io", &error.to_string()))?;
    if metadata.is_dir() {
        return Err(refuse(
            "invalid",
            "it is a directory; pack it first, such as with tar, and publish that",
        ));
    }
    if !metadata.is_file() {
        return Err(refuse(
            "invalid",
            "it is no regular file; use - to publish what comes from a pipe",
        ));
    }
    std::path::absolute(path).map_err(|error| refuse("io", &error.to_string()))
}

fn words(published: &Published) -> String {
    let Published { content_id, size, segments, receipts, .. } = published;
    let overhead = published.stored_bytes as f64 / (*size).max(1) as f64;
    let stored = ByteSize(published.stored_bytes);
    let survives = if published.survives_datacenter {
        "survives the loss of any one datacenter"
    } else {
        "does NOT survive the loss of one of its datacenters"
    };
    let live = if published.live {
        "live: checked by nodes that took no part"
    } else {
        "not live yet: nobody else has checked it"
    };
    let (have, want) = (receipts.have, receipts.want);
    format!(
        "published {} in {segments} segments, {stored} stored ({overhead:.2}x), \
         {have} of {want} receipts\n{survives}; {live}\n{content_id}",
        ByteSize(*size)
    )
}
