//! Who is asked what, is the answer right, and what is a node's word worth.
//!
//! The witness's decisions (SPEC_WITNESS.md), in the order in which they are made: [`beacon`]
//! verifies the epoch's number, [`draw`] makes it into segments, committees and leaves,
//! [`auditor`] asks and [`answering`] answers, [`verify`] turns an answer into an outcome,
//! [`verdicts`] chains what was found, [`unproven`] counts what
//! could not be looked at again, [`evidence`] convicts, [`score`] folds verdicts into what a
//! node's word is worth, and [`certificate`] shows a work's durability offline.
//!
//! This crate never opens a socket or a file, never reads a clock, never draws a random
//! number, and never moves a score without a verdict that the node concerned
//! can read first. Time, beacon and answers are passed in.

pub mod answering;
pub mod auditor;
pub mod beacon;
pub mod certificate;
pub mod draw;
pub mod evidence;
mod scalar;
pub mod score;
pub mod unproven;
pub mod verdicts;
pub mod verify;
