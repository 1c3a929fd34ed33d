//! Running `echonet` as a stranger would: its own process, its own data
//! directory, and only what the command line says.

use std::{path::Path, process::Stdio};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    cli::CliOutput,
    service::{Progress, ServiceError, ServiceResult},
    settings,
};

/// Runs `echonet --json --data DATA ARGS`, shows its progress, and returns the
/// object of its last line. The process has ended then.
pub(super) async fn echonet<T: DeserializeOwned>(
    data: &Path,
    args: &[&str],
    output: &CliOutput,
) -> ServiceResult<T> {
    let cannot = |error| ServiceError::new("io", format!("cannot run echonet {args:?}: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    for name in settings::env_names() {
        command.env_remove(name);
    }
    let mut child = command
        .args(["--json", "--data"])
        .arg(data)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    let mut last = serde_json::Value::Null;
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.map_err(cannot)? {
            last = serde_json::from_str(&line).unwrap_or_default();
            if let (false, Ok(event)) = (output.is_json(), serde_json::from_str(&line)) {
                show(&event, output);
            }
        }
    }
    let status = child.wait().await.map_err(cannot)?;
    if last["event"] == "error" {
        return Err(serde_json::from_value(last).unwrap_or_else(|e| ServiceError::new("io", e)));
    }
    if !status.success() {
        let text = format!("echonet {args:?} ended with {status} and no reason");
        return Err(ServiceError::new("internal", text));
    }
    serde_json::from_value(last).map_err(|error| {
        ServiceError::new("internal", format!("echonet {args:?} printed no result: {error}"))
    })
}

/// Bars and faults; the demo says the rest in its own words.
fn show(event: &Progress, output: &CliOutput) {
    match event {
        Progress::Stage { .. } | Progress::Identified { .. } => {}
        event => output.progress(event),
    }
}
