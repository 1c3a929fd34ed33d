//! Which source wins, and what is refused with which words.

use super::*;

fn scratch() -> (tempfile::TempDir, DataDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = DataDir::open(temp.path()).unwrap();
    (temp, dir)
}

fn write_config(dir: &DataDir, text: &str) {
    std::fs::write(dir.config_file(), text).unwrap();
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn no_flags() -> BTreeMap<String, String> {
    BTreeMap::new()
}

/// The error's words, for a configuration file's text.
fn refused(text: &str) -> String {
    let (_temp, dir) = scratch();
    write_config(&dir, text);
    Settings::merge(&dir, env(&[]), no_flags()).unwrap_err().to_string()
}

fn bootstrap(network: u8, port: u16) -> BootstrapAddr {
    BootstrapAddr {
        network: NetworkId([network; 32]),
        node: echonet_protocol::identity::NodeId([9; 32]),
        addr: (Ipv4Addr::LOCALHOST, port).into(),
    }
}

pub(crate) fn genesis(salt: u8) -> Genesis {
    crate::devnet::genesis::development(
        &crate::devnet::genesis::DevelopmentNetwork::default(),
        [salt; 16],
        echonet_protocol::time::UnixSeconds(0),
        Vec::new(),
        echonet_protocol::network::WitnessParams::none(),
    )
}

#[test]
fn flags_win_over_environment_over_file_over_memory() {
    let (_temp, dir) = scratch();
    let remembered = format!("bootstrap = [\"{}\"]", bootstrap(1, 1));
    std::fs::write(dir.remembered_file(), remembered).unwrap();
    write_config(&dir, "region = 'file'\nrack = 'file'\noperator = 'file'\nquota = '1GiB'\n");
    let env = env(&[("rack", "env"), ("operator", "env")]);
    let settings = Settings::merge(&dir, env, BTreeMap::from([("operator", "flag")])).unwrap();
    assert_eq!(settings.region.as_deref(), Some("file"));
    assert_eq!(settings.rack.as_deref(), Some("env"));
    assert_eq!(settings.operator.as_deref(), Some("flag"));
    assert_eq!(settings.quota, Some(ByteSize(1 << 30)));
    assert_eq!(settings.bootstrap, [bootstrap(1, 1)]);
}

#[test]
fn values_from_the_environment_stay_text() {
    let (_temp, dir) = scratch();
    let env = env(&[("operator", "1.50"), ("rack", "true"), ("role", "storage, origin")]);
    let settings = Settings::merge(&dir, env, no_flags()).unwrap();
    assert_eq!(settings.operator.as_deref(), Some("1.50"));
    assert_eq!(settings.rack.as_deref(), Some("true"));
    assert_eq!(settings.role, [Role(Roles::STORAGE), Role(Roles::ORIGIN)]);
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_place() {
    let error = refused("qota = '1GiB'");
    assert!(error.contains("\"qota\" in") && error.contains("quota"), "{error}");
    let error = refused("quota = '1 banana'");
    assert!(error.contains("echonet.toml") && error.contains("10GiB"), "{error}");
    let error = refused("role = ['king']");
    assert!(error.contains("roles are origin, storage"), "{error}");
    let error = refused("quota = -1");
    assert!(error.contains("negative"), "{error}");
}

#[test]
fn a_node_needs_a_network() {
    let (_temp, dir) = scratch();
    for purpose in [Purpose::Daemon, Purpose::Command] {
        let error = Settings::default().into_config(&dir, purpose).unwrap_err().to_string();
        assert!(error.contains("--bootstrap"), "{error}");
    }
    remember(&dir, &genesis(1), &[]).unwrap();
    Settings::default().into_config(&dir, Purpose::Daemon).unwrap();
    // A command without roles is no network by itself.
    Settings::default().into_config(&dir, Purpose::Command).unwrap_err();
}

#[test]
fn a_directory_belongs_to_one_network() {
    let (_temp, dir) = scratch();
    let own = genesis(1);
    let mut entry = bootstrap(0, 7);
    entry.network = own.network_id();
    remember(&dir, &own, &[entry]).unwrap();
    let remembered = Settings::merge(&dir, env(&[]), no_flags()).unwrap();
    assert_eq!(remembered.bootstrap, [entry]);
    assert_eq!(remembered.clone().into_config(&dir, Purpose::Command).unwrap().genesis, Some(own));

    let other = Settings { bootstrap: vec![bootstrap(5, 1)], ..Settings::default() };
    let error = other.into_config(&dir, Purpose::Command).unwrap_err().to_string();
    assert!(error.contains("another network") && error.contains("--data"), "{error}");
    remember(&dir, &genesis(2), &[]).unwrap_err();
}

#[test]
fn roles_and_port_are_a_daemons_only() {
    let (_temp, dir) = scratch();
    let settings = Settings {
        bootstrap: vec![bootstrap(1, 1)],
        role: vec![Role(Roles::STORAGE)],
        ..Settings::default()
    };
    let daemon = settings.clone().into_config(&dir, Purpose::Daemon).unwrap();
    assert_eq!((daemon.roles, daemon.bind.port()), (Roles::STORAGE, DEFAULT_PORT));
    let command = settings.into_config(&dir, Purpose::Command).unwrap();
    assert_eq!((command.roles, command.bind.port()), (Roles::default(), 0));
}

#[test]
fn the_api_stays_on_loopback() {
    let settings = |api: &str| Settings { api: Some(api.parse().unwrap()), ..Settings::default() };
    assert!(settings("127.0.0.1:80").api_addr().is_ok());
    assert!(settings("[::1]:80").api_addr().is_ok());
    for api in ["0.0.0.0:80", "192.168.1.4:80", "[::]:80"] {
        let error = settings(api).api_addr().unwrap_err().to_string();
        assert!(error.contains("loopback"), "{error}");
    }
}

#[test]
fn an_issuer_secret_is_not_repeated_in_errors() {
    let (_temp, dir) = scratch();
    let settings = Settings {
        bootstrap: vec![bootstrap(1, 1)],
        issuer_secret: Some("hunter2".into()),
        ..Settings::default()
    };
    let error = settings.into_config(&dir, Purpose::Daemon).unwrap_err().to_string();
    assert!(error.contains("64 hex digits") && !error.contains("hunter2"), "{error}");
}

#[test]
fn caps_and_quiet_hours_come_from_any_source() {
    let (_temp, dir) = scratch();
    write_config(
        &dir,
        "upload_cap = '2MiB'\nquiet = ['mon 08:00-10:00', 'tue 08:00-10:00']\nquiet_cap = '20KiB'",
    );
    let env = env(&[("quiet_utc_offset", "+02:00"), ("download_cap", "65536")]);
    let flags = BTreeMap::from([("bootstrap", bootstrap(1, 1).to_string())]);
    let settings = Settings::merge(&dir, env, flags).unwrap();
    let caps = settings.into_config(&dir, Purpose::Daemon).unwrap().caps;
    assert_eq!(
        (caps.upload, caps.download, caps.quiet),
        (Some(2 << 20), Some(65_536), Some(20_480))
    );
    assert_eq!(caps.quiet_hours.hours().collect::<Vec<_>>(), [6, 7, 30, 31]);

    let error = refused("quiet = ['monday 8-10']");
    assert!(
        error.contains("no window of quiet hours") && error.contains("echonet.toml"),
        "{error}"
    );
    let error = refused("quiet_utc_offset = 'CEST'");
    assert!(error.contains("+02:00"), "{error}");
    let low = Settings {
        bootstrap: vec![bootstrap(1, 1)],
        upload_cap: Some(ByteSize(1024)),
        ..Settings::default()
    };
    let error = low.into_config(&dir, Purpose::Daemon).unwrap_err().to_string();
    assert!(error.contains("--upload-cap") && error.contains("16 KiB"), "{error}");
}
