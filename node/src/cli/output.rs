//! What a person or a program sees.
//!
//! With `--json`: one object a line on standard output, the last one the result
//! or the error. Else: the result on standard output, progress and everything
//! else on standard error, bars only on a terminal.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Mutex,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::service::{Progress, ServiceError};

/// Where a command's output goes.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    /// Standard output carries content, so everything else goes elsewhere.
    content_on_stdout: bool,
    bar: Mutex<Option<(&'static str, ProgressBar)>>,
    terminal: bool,
}

impl Output {
    pub(super) fn new(json: bool, content_on_stdout: bool) -> Self {
        let terminal = !json && std::io::stderr().is_terminal();
        Self { json, content_on_stdout, bar: Mutex::new(None), terminal }
    }

    /// Whether a program reads along.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: an object with its event's name, or words.
    pub(crate) fn result(
        &self,
        event: &str,
        value: &impl Serialize,
        words: impl FnOnce() -> String,
    ) {
        self.end_bar();
        let text = if self.json { with_event(event, value) } else { words() };
        self.line(&text);
    }

    /// Tells a person something; nothing with `--json`.
    pub(crate) fn say(&self, text: &str) {
        if self.json {
            return;
        }
        match self.bar.lock().ok().as_deref() {
            Some(Some((_, bar))) => bar.suspend(|| to_stderr(text)),
            _ => to_stderr(text),
        }
    }

    /// Shows how far an operation is.
    pub(crate) fn progress(&self, event: &Progress) {
        if self.json {
            self.line(&serde_json::to_string(event).unwrap_or_default());
            return;
        }
        match event {
            Progress::Hashing { done, total } => self.move_bar("hashing", *done, *total),
            Progress::Storing { done, total } => self.move_bar("storing", *done, *total),
            Progress::Fetching { done, total } => self.move_bar("fetching", *done, *total),
            Progress::Draining { left, done } => self.move_bar("draining", *done, done + left),
            Progress::Identified { content_id, .. } => self.say(&format!("ContentID {content_id}")),
            Progress::Stage { stage, detail } => self.say(&format!("{stage}: {detail}")),
            Progress::Fault { node_id, detail, proof } => {
                self.say(&format!("fault of {}: {detail}", short(node_id)));
                if let Some(proof) = proof {
                    self.say(&format!("  proof: {proof}"));
                }
            }
        }
    }

    /// Prints why a command failed.
    pub(super) fn error(&self, error: &ServiceError) {
        self.end_bar();
        to_stderr(&format!("error: {}", error.message));
        if self.json {
            if self.content_on_stdout {
                to_stderr(&with_event("error", error));
            } else {
                json_error(error);
            }
        }
    }

    fn line(&self, text: &str) {
        if self.content_on_stdout { to_stderr(text) } else { to_stdout(text) }
    }

    fn move_bar(&self, name: &'static str, done: u64, total: u64) {
        if !self.terminal {
            return;
        }
        let Ok(mut slot) = self.bar.lock() else { return };
        if slot.as_ref().is_none_or(|(current, _)| *current != name) {
            if let Some((_, old)) = slot.take() {
                old.finish_and_clear();
            }
            *slot = Some((name, new_bar(name, total)));
        }
        if let Some((_, bar)) = slot.as_ref() {
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
    }

    fn end_bar(&self) {
        if let Some((_, bar)) = self.bar.lock().ok().and_then(|mut slot| slot.take()) {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(name: &'static str, total: u64) -> ProgressBar {
    const TEMPLATE: &str = "{msg:9} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    let bar = ProgressBar::new(total).with_message(name);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// An object's JSON with `event` as its first field.
fn with_event(event: &str, value: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct WithEvent<'a, T> {
        event: &'a str,
        #[serde(flatten)]
        value: &'a T,
    }
    serde_json::to_string(&WithEvent { event, value }).unwrap_or_else(|error| {
        json!({"event": "error", "kind": "internal", "message": error.to_string()}).to_string()
    })
}

/// Prints the last line of a failed command for a program.
pub(super) fn json_error(error: &ServiceError) {
    to_stdout(&with_event("error", error));
}

/// Prints a line; whoever closed the pipe does not want it.
fn to_stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn to_stderr(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The first ten characters of an identifier, for people.
pub(crate) fn short(id: &str) -> &str {
    id.char_indices().nth(10).map_or(id, |(end, _)| &id[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_comes_first_and_the_fields_stay() {
        let error = ServiceError::new("not_found", "nobody has it");
        let text = with_event("error", &error);
        assert_eq!(text, r#"{"event":"error","kind":"not_found","message":"nobody has it"}"#);
    }

    #[test]
    fn identifiers_are_cut_at_characters() {
        assert_eq!(short("0123456789abc"), "0123456789");
        assert_eq!(short("äöü"), "äöü");
    }
}
