//! `echonet devnet`: a network of many nodes on this machine.

use std::path::PathBuf;

use super::{args::DevnetArgs, node::Signals, output::Output};
use crate::{
    devnet::{Devnet, DevnetConfig, DevnetReady, genesis::DevelopmentNetwork},
    service::{ServiceError, ServiceResult},
};

pub(super) async fn run(
    data: Option<PathBuf>,
    args: DevnetArgs,
    output: &Output,
) -> ServiceResult<()> {
    let Some(data) = data else {
        // Not the default one: that is this user's own node.
        let text = "devnet needs a directory of its own: say where with --data DIR";
        return Err(ServiceError::new("usage", text));
    };
    let mut signals = Signals::listen()?;
    let config = DevnetConfig {
        nodes: args.nodes,
        witnesses: args.witnesses,
        data,
        quota_bytes: args.network.quota.0,
        roles: args.network.role,
        network: DevelopmentNetwork {
            epoch: args.network.epoch,
            segment_bytes: args.network.segment.0,
            volume_bytes: args.network.volume.0,
            unsealed: args.network.unsealed,
            collect_grace_epochs: args.network.collect_grace,
            timing: args.network.timing.timing(),
            audit_permyriad: args.audit_percent.saturating_mul(100),
            ..DevelopmentNetwork::default()
        },
    };
    let tell = |ready| {
        output.say(&format!("{ready} of {} nodes are ready", config.nodes + config.witnesses));
    };
    let mut devnet = tokio::select! {
        started = Devnet::start(&config, tell) => started?,
        () = signals.next() => return Ok(()),
    };
    let ready = devnet.ready();
    output.result("ready", &ready, || words(&ready));
    loop {
        tokio::select! {
            () = signals.next() => break,
            name = devnet.next_to_end() => output.say(&format!("{name} ended")),
        }
    }
    output.say("ending all nodes; once more to end at once");
    tokio::select! {
        () = signals.next() => {}
        () = devnet.stop() => {}
    }
    Ok(())
}

fn words(ready: &DevnetReady) -> String {
    let line = |node: &crate::devnet::DevnetNode| {
        format!("  {}  pid {:7}  {:21}  {}", node.name, node.pid, node.addr, node.data.display())
    };
    let nodes: Vec<_> = ready.nodes.iter().chain(&ready.witnesses).map(line).collect();
    format!(
        "{} nodes know each other:\n{}\nenter with\n  --bootstrap {}\nCtrl-C ends all",
        nodes.len(),
        nodes.join("\n"),
        ready.bootstrap
    )
}
