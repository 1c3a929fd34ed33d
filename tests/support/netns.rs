//! A network of a scenario's own: its test program runs again inside new user,
//! network and mount namespaces, where it may drop packets by rule and mount small
//! disks. Nothing outside is touched, and no privilege is needed.

use std::process::{Command, Stdio};

/// Set inside.
const INSIDE: &str = "ECHONET_TESTS_INSIDE_NETWORK";

/// Whether this is the run inside a network of its own. Outside it runs the test `name` of this
/// program again inside one, which must pass, and returns false. Where the machine cannot do it
/// the scenario is skipped, and says so.
///
/// # Panics
/// When the run inside fails.
#[must_use]
pub fn entered(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if let Err(reason) = possible() {
        println!("skipped: {name}: {reason}");
        return false;
    }
    let program = std::env::current_exe().expect("the path of this test program");
    let mut command = Command::new("unshare");
    command.args(["-rnm", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).arg(program);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let status = command.status().expect("unshare was found a moment ago");
    assert!(status.success(), "{name} failed inside its network: {status}");
    false
}

/// Whether namespaces and rules are to be had; if not, why.
fn possible() -> Result<(), String> {
    let check = "ip link set lo up && nft add table ip t && nft list ruleset > /dev/null";
    let output = Command::new("unshare").args(["-rnm", "sh", "-c", check]).output();
    let output = output.map_err(|e| format!("unshare cannot be run: {e}"))?;
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("no network of its own: {why}")) }
}

/// Packets are dropped by these rules until this is dropped.
pub struct Dropping(());

impl Dropping {
    /// Each rule is nftables' own words for what arrives, such as
    /// `ip saddr 127.1.0.0/16 ip daddr 127.2.0.0/16 drop`.
    ///
    /// # Panics
    /// When a rule is not taken.
    #[must_use]
    pub fn by(rules: &[String]) -> Self {
        nft("add table ip chaos");
        nft("add chain ip chaos input { type filter hook input priority 0; }");
        let dropping = Self(());
        for rule in rules {
            nft(&format!("add rule ip chaos input {rule}"));
        }
        dropping
    }

    /// Nothing passes between these nets and all others.
    #[must_use]
    pub fn partition(side: &[&str]) -> Self {
        let side = format!("{{ {} }}", side.join(", "));
        // What clients send comes from 127.0.0.1 and passes.
        let others = "ip {} != 127.0.0.0/16";
        Self::by(&[
            format!("ip saddr {side} ip daddr != {side} {} drop", others.replace("{}", "daddr")),
            format!("ip daddr {side} ip saddr != {side} {} drop", others.replace("{}", "saddr")),
        ])
    }

    /// So many of a hundred UDP packets are lost.
    #[must_use]
    pub fn loss(percent: u32) -> Self {
        Self::by(&[format!("meta l4proto udp numgen random mod 100 < {percent} drop")])
    }
}

impl Drop for Dropping {
    fn drop(&mut self) {
        nft("delete table ip chaos");
    }
}

/// An empty disk in memory, mounted inside only, until this is dropped.
pub struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// One of so many bytes, at a directory.
    ///
    /// # Panics
    /// When that cannot be done.
    #[must_use]
    pub fn mount(at: &std::path::Path, bytes: u64) -> Self {
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        let output = output.expect("mount runs");
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mounting at {}: {why}", at.display());
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process may still have files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn nft(words: &str) {
    let output = Command::new("nft").arg(words).stdin(Stdio::null()).output().expect("nft runs");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || std::thread::panicking(), "nft {words}: {why}");
}
