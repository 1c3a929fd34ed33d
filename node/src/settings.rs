//! Configuration: the data directory's `echonet.toml`, then the environment
//! (`ECHONET_*`), then flags; later ones win. The outcome is a checked
//! [`NodeConfig`].
//!
//! What a node found out about its network (`remembered.toml`, `genesis`) is
//! below all of them. The owner's file is never written by this program.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use echonet_protocol::{
    network::{BootstrapAddr, Genesis, NetworkId},
    node_descriptor::{Labels, Roles},
    params,
};
use figment::{
    Figment,
    providers::{Env, Format as _, Serialized, Toml},
};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    config::NodeConfig,
    datadir::{DataDir, DataDirError, read_small},
    net::bandwidth::{CAP_BYTES_PER_S_MIN, Caps},
    quiet::{QuietWindow, UtcOffset, quiet_hours},
    units::ByteSize,
};

/// Where a node listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 4700;
/// Most bootstrap addresses that are remembered.
const REMEMBERED_MAX: usize = 8;
/// Keys of the file, of the environment (`ECHONET_` and upper case) and, with
/// dashes, of flags.
const KEYS: [&str; 18] = [
    "bind",
    "bootstrap",
    "genesis",
    "role",
    "quota",
    "upload_cap",
    "download_cap",
    "quiet",
    "quiet_utc_offset",
    "quiet_cap",
    "region",
    "datacenter",
    "rack",
    "operator",
    "relay",
    "issuer_secret",
    "beacon_share",
    "api",
];

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file or directory could not be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A source does not say what it should.
    #[error("configuration: {0}")]
    Invalid(String),
    /// Two sources name different networks.
    #[error(
        "{what} belongs to network {other}, but this data directory to network {own}: \
         use another directory with --data DIR for another network",
        other = other.short(), own = own.short()
    )]
    OtherNetwork {
        /// The source.
        what: String,
        /// Its network.
        other: NetworkId,
        /// This directory's.
        own: NetworkId,
    },
    /// Nobody said which network.
    #[error(
        "no network is known here: pass --bootstrap ADDR (whoever runs a node there can print \
         one with `echonet id`), or start a network on this machine with `echonet devnet`"
    )]
    NoNetwork,
}

/// What the sources say, merged; nothing checked against anything else yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen.
    pub bind: Option<SocketAddr>,
    /// Where to enter the network.
    #[serde(deserialize_with = "list")]
    pub bootstrap: Vec<BootstrapAddr>,
    /// The genesis file.
    pub genesis: Option<PathBuf>,
    /// Names of roles.
    #[serde(deserialize_with = "list")]
    pub role: Vec<Role>,
    /// Most bytes on disk for other people's shards.
    pub quota: Option<ByteSize>,
    /// Most bytes per second handed out to others.
    pub upload_cap: Option<ByteSize>,
    /// Most bytes per second taken in from others.
    pub download_cap: Option<ByteSize>,
    /// Quiet hours, in local time.
    #[serde(deserialize_with = "list")]
    pub quiet: Vec<QuietWindow>,
    /// Local time's distance from UTC.
    pub quiet_utc_offset: Option<UtcOffset>,
    /// Most bytes per second, either way, in quiet hours.
    pub quiet_cap: Option<ByteSize>,
    /// Label.
    pub region: Option<String>,
    /// Label.
    pub datacenter: Option<String>,
    /// Label.
    pub rack: Option<String>,
    /// Label.
    pub operator: Option<String>,
    /// URLs of relays.
    #[serde(deserialize_with = "list")]
    pub relay: Vec<String>,
    /// Secret key of a grant issuer, hex.
    #[serde(skip_serializing)]
    pub issuer_secret: Option<String>,
    /// A witness's secret share of the network's threshold beacon, hex.
    #[serde(skip_serializing)]
    pub beacon_share: Option<String>,
    /// Where the local API listens.
    pub api: Option<SocketAddr>,
}

/// One role by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role(pub Roles);

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Roles::ALL.map(|(name, _)| name).join(", ");
        Roles::ALL
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, role)| Self(*role))
            .ok_or_else(|| format!("{text:?} is not a role; roles are {}", known()))
    }
}

impl Serialize for Role {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0.names().join(","))
    }
}

/// A list as such or as text with commas, each item parsed from text.
fn list<'de, T, D>(d: D) -> Result<Vec<T>, D::Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    let items = match OneOrMany::deserialize(d)? {
        OneOrMany::One(text) => text.split(',').map(str::to_owned).collect(),
        OneOrMany::Many(items) => items,
    };
    let items = items.iter().map(|i| i.trim()).filter(|i| !i.is_empty());
    items.map(|item| item.parse().map_err(de::Error::custom)).collect()
}

/// What `remembered.toml` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Remembered {
    bootstrap: Vec<BootstrapAddr>,
}

/// Names of the environment variables that configure a node, for starting one
/// that is not to be configured by this process's environment.
pub fn env_names() -> impl Iterator<Item = String> {
    KEYS.into_iter().chain(["data"]).map(|key| format!("ECHONET_{}", key.to_uppercase()))
}

impl Settings {
    /// Merges the sources of a data directory, the environment and `flags`
    /// (anything that serializes to a map with the keys above; absent or null
    /// ones say nothing).
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] names the source and what is wrong in it.
    pub fn load(dir: &DataDir, flags: impl Serialize) -> Result<Self, SettingsError> {
        let env = Env::prefixed("ECHONET_").only(&KEYS);
        // Raw text, not figment's guesses: an operator named 1.50 stays so.
        let env = env.iter().map(|(key, value)| (key.as_str().to_owned(), value)).collect();
        Self::merge(dir, env, flags)
    }

    fn merge(
        dir: &DataDir,
        env: BTreeMap<String, String>,
        flags: impl Serialize,
    ) -> Result<Self, SettingsError> {
        let files = [dir.remembered_file(), dir.config_file()];
        let files = files.iter().filter(|path| path.exists());
        let figment = files
            .fold(Figment::new(), |all, path| all.merge(Toml::file_exact(path)))
            .merge(Serialized::from(env, "default"))
            .merge(Serialized::from(flags, "default"));
        figment.extract().map_err(|error| SettingsError::Invalid(explain(&error, dir)))
    }

    /// Checks everything against everything and reads the genesis.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn into_config(self, dir: &DataDir, purpose: Purpose) -> Result<NodeConfig, SettingsError> {
        let genesis = self.read_genesis(dir)?;
        self.check_network(genesis.as_ref())?;
        let daemon = purpose == Purpose::Daemon;
        if self.bootstrap.is_empty() && (genesis.is_none() || !daemon) {
            return Err(SettingsError::NoNetwork);
        }
        let port = if daemon { DEFAULT_PORT } else { 0 };
        let roles = match self.role.as_slice() {
            _ if !daemon => Roles::default(),
            [] => Roles::ORIGIN,
            roles => roles.iter().fold(Roles::default(), |all, role| all.with(role.0)),
        };
        let labels = Labels {
            region: label("region", self.region)?,
            datacenter: label("datacenter", self.datacenter)?,
            rack: label("rack", self.rack)?,
            operator: label("operator", self.operator)?,
        };
        let caps = Caps {
            upload: cap("upload-cap", self.upload_cap)?,
            download: cap("download-cap", self.download_cap)?,
            quiet: cap("quiet-cap", self.quiet_cap)?,
            quiet_hours: quiet_hours(&self.quiet, self.quiet_utc_offset.unwrap_or_default()),
        };
        Ok(NodeConfig {
            data: dir.path().to_owned(),
            bind: self.bind.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, port).into()),
            bootstrap: self.bootstrap,
            genesis,
            roles,
            labels,
            caps,
            quota_bytes: self.quota.unwrap_or(ByteSize(10 << 30)).0,
            relays: self.relay,
            issuer_secret: secret("issuer_secret", self.issuer_secret.as_deref())?,
            beacon_share: secret("beacon_share", self.beacon_share.as_deref())?,
        })
    }

    /// Where the local API listens: loopback only.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] for any other address.
    pub fn api_addr(&self) -> Result<SocketAddr, SettingsError> {
        let addr = self.api.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
        if addr.ip().is_loopback() {
            return Ok(addr);
        }
        Err(SettingsError::Invalid(format!(
            "the local API may not listen on {addr}, which others can reach: \
             use a loopback address such as --api 127.0.0.1:4780"
        )))
    }

    fn read_genesis(&self, dir: &DataDir) -> Result<Option<Genesis>, SettingsError> {
        let (path, required) = match &self.genesis {
            Some(path) => (path.clone(), true),
            None => (dir.genesis_file(), false),
        };
        let Some(bytes) = read_small(&path)? else {
            if required {
                let path = path.display();
                let text = format!("the genesis file {path} does not exist: check --genesis");
                return Err(SettingsError::Invalid(text));
            }
            return Ok(None);
        };
        Genesis::decode(&bytes).map(Some).map_err(|error| {
            let path = path.display();
            SettingsError::Invalid(format!("{path} is not a genesis file: {error}"))
        })
    }

    fn check_network(&self, genesis: Option<&Genesis>) -> Result<(), SettingsError> {
        let known = genesis.map(Genesis::network_id).or(self.bootstrap.first().map(|b| b.network));
        let Some(own) = known else { return Ok(()) };
        match self.bootstrap.iter().find(|b| b.network != own) {
            None => Ok(()),
            Some(b) => Err(SettingsError::OtherNetwork {
                what: format!("the bootstrap address {}", b.addr),
                other: b.network,
                own,
            }),
        }
    }
}

/// What a node is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To stay: with its roles, on its port.
    Daemon,
    /// For one command: no roles, any port unless one is configured.
    Command,
}

/// Keeps what is needed to enter the network again without flags.
///
/// # Errors
/// [`SettingsError`] when it cannot be written, or when the directory already
/// belongs to another network.
pub fn remember(
    dir: &DataDir,
    genesis: &Genesis,
    bootstrap: &[BootstrapAddr],
) -> Result<(), SettingsError> {
    let bytes = genesis.encode();
    match read_small(&dir.genesis_file())? {
        Some(old) if old == bytes => {}
        Some(old) => {
            return Err(SettingsError::OtherNetwork {
                what: "the genesis".to_owned(),
                other: genesis.network_id(),
                own: NetworkId(*blake3::hash(&old).as_bytes()),
            });
        }
        None => dir.write_private("genesis", &bytes)?,
    }
    if bootstrap.is_empty() {
        return Ok(());
    }
    let bootstrap = bootstrap.iter().take(REMEMBERED_MAX).copied().collect();
    let text = toml::to_string(&Remembered { bootstrap })
        .map_err(|error| SettingsError::Invalid(error.to_string()))?;
    let text = format!("# Written by echonet after it entered its network.\n{text}");
    if read_small(&dir.remembered_file())?.as_deref() != Some(text.as_bytes()) {
        dir.write_private("remembered.toml", text.as_bytes())?;
    }
    Ok(())
}

fn label(name: &str, value: Option<String>) -> Result<String, SettingsError> {
    let value = value.unwrap_or_default();
    if value.len() > params::LABEL_BYTES_MAX || value.chars().any(char::is_control) {
        let most = params::LABEL_BYTES_MAX;
        let text = format!("--{name} must be plain text of at most {most} bytes");
        return Err(SettingsError::Invalid(text));
    }
    Ok(value)
}

/// A cap in bytes per second; one that is too low would make readers take this node for broken.
fn cap(name: &str, value: Option<ByteSize>) -> Result<Option<u64>, SettingsError> {
    let least = ByteSize(CAP_BYTES_PER_S_MIN);
    match value {
        Some(cap) if cap < least => Err(SettingsError::Invalid(format!(
            "--{name} is {cap} per second, and below {least} others would take this node for \
             broken: raise it, or give up the role that serves others"
        ))),
        cap => Ok(cap.map(|cap| cap.0)),
    }
}

fn secret(name: &str, text: Option<&str>) -> Result<Option<[u8; 32]>, SettingsError> {
    let Some(text) = text else { return Ok(None) };
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
    // The secret itself is never repeated in an error.
    let bytes = bytes.and_then(|b| b.try_into().ok());
    let bytes =
        bytes.ok_or_else(|| SettingsError::Invalid(format!("{name} must be 64 hex digits")))?;
    Ok(Some(bytes))
}

/// A figment error with the place it came from.
fn explain(error: &figment::Error, dir: &DataDir) -> String {
    let key = error.path.join(".");
    let from_file = error.metadata.as_ref().and_then(|m| m.source.as_ref()?.file_path());
    let place = match from_file {
        Some(path) => format!("in {}", path.display()),
        None if key.is_empty() => format!("in {} or the environment", dir.config_file().display()),
        None => format!("in --{} or ECHONET_{}", key.replace('_', "-"), key.to_uppercase()),
    };
    let keys = KEYS.join(", ");
    match &error.kind {
        figment::error::Kind::UnknownField(name, _) => {
            format!("{name:?} {place} is not a setting; settings are {keys}")
        }
        kind if key.is_empty() => format!("{kind} {place}"),
        kind => format!("{key} {place}: {kind}"),
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
