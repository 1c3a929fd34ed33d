//! `echonet status`, `ls`, `peers`, `id`, `unpublish`, `keep` and `unkeep`.

use std::fmt::Write as _;

use echonet_protocol::{identity::NodeId, network::NetworkId};
use serde_json::json;

use super::{
    args::{NetworkArgs, StatusArgs, WorkArgs},
    backend::Backend,
    output::{Output, short},
    start::bootstrap_addr,
};
use crate::{
    crash_points::NODE_CRASH_POINTS,
    datadir::DataDir,
    service::{
        Kept, LimitsStatus, NodeStatus, Peer, RepairStatus, ServiceError, ServiceResult,
        Unpublished, Work, WorkStatus,
    },
    units::ByteSize,
};

pub(super) async fn unpublish(dir: &DataDir, args: WorkArgs, output: &Output) -> ServiceResult<()> {
    let content = args.content_id.parse()?;
    let backend = Backend::connect(dir, &args.network, "unpublish").await?;
    let outcome = backend.service().unpublish(content).await;
    backend.close().await;
    let withdrawn = outcome?;
    output.result("unpublished", &withdrawn, || {
        format!(
            "withdrawn: {}\nyour leases and announcement of it end; leases of others, and copies \
             that readers keep, do not{}",
            withdrawn.work.content_id,
            told_words(&withdrawn)
        )
    });
    Ok(())
}

/// What became of telling holders.
fn told_words(ended: &Unpublished) -> String {
    let told = ended.holders_told;
    match ended.holders_unreached {
        0 => format!("\n{told} holders were told"),
        away => format!(
            "\n{told} holders were told; {away} did not answer and keep their shards until they are \
             told: while `echonet node` runs here, by your next command of this kind, or when the \
             lease's grant ends"
        ),
    }
}

pub(super) async fn keep(dir: &DataDir, args: WorkArgs, output: &Output) -> ServiceResult<()> {
    let content = args.content_id.parse()?;
    let backend = Backend::connect(dir, &args.network, "keep").await?;
    let outcome = backend.run(output, |service, progress| service.keep(content, progress)).await;
    backend.close().await;
    let kept = outcome?;
    output.result("kept", &kept, || {
        let Kept { content_id, segments, receipts, .. } = &kept;
        let size = ByteSize(kept.size);
        let mut text = format!(
            "kept: {content_id}\n{size} in {segments} segments, {} of {} shards leased by you; \
             their holders renew the leases while your grant lasts",
            receipts.have, receipts.want
        );
        if !kept.survives_datacenter {
            text.push_str("\nWARNING: the loss of one datacenter may lose it");
        }
        text
    });
    Ok(())
}

/// Ends the leases on a work that is kept; never takes down one that is published from here.
pub(super) async fn unkeep(dir: &DataDir, args: WorkArgs, output: &Output) -> ServiceResult<()> {
    let content = args.content_id.parse()?.to_string();
    let backend = Backend::connect(dir, &args.network, "unkeep").await?;
    let outcome = async {
        let works = backend.service().works().await?;
        let state = works.iter().find(|work| work.content_id == content).map(|w| w.state.as_str());
        match state {
            Some("kept") => backend.service().unpublish(args.content_id.parse()?).await,
            Some("published" | "publishing") => Err(ServiceError::new(
                "usage",
                "this work is published from here: `echonet unpublish` takes it down",
            )),
            _ => Err(ServiceError::new("not_found", format!("{content} is not kept from here"))),
        }
    };
    let outcome = outcome.await;
    backend.close().await;
    let ended = outcome?;
    output.result("unkept", &ended, || {
        format!(
            "no longer kept: {content}\nyour leases on it end; its publisher's and others' do not{}",
            told_words(&ended)
        )
    });
    Ok(())
}

/// Has the running node hand over all it holds.
pub(super) async fn drain(dir: &DataDir, output: &Output) -> ServiceResult<()> {
    let Some(backend) = Backend::daemon_only(dir)? else {
        let text = "no daemon runs on this data directory: start it with `echonet node`, for only a \
                    running node can hand over what it holds";
        return Err(ServiceError::new("unavailable", text));
    };
    let outcome = backend.run(output, |service, progress| service.drain(progress)).await;
    let drained = outcome?;
    output.result("drained", &drained, || {
        let bytes = ByteSize(drained.bytes);
        format!(
            "{} shards handed over, {bytes}: others answer for all of them; it is safe to end \
             this node and delete its directory",
            drained.shards
        )
    });
    Ok(())
}

pub(super) async fn status(dir: &DataDir, args: StatusArgs, output: &Output) -> ServiceResult<()> {
    let content = args.content_id.map(|name| name.parse()).transpose()?;
    let backend = Backend::connect(dir, &args.network, "status").await?;
    let outcome = match content {
        Some(content) => backend.service().work_status(content).await.map(|status| {
            output.result("status", &status, || work_words(&status));
        }),
        None => backend.service().node_status().await.map(|status| {
            output.result("status", &status, || node_words(&status));
        }),
    };
    backend.close().await;
    outcome
}

pub(super) async fn ls(dir: &DataDir, args: NetworkArgs, output: &Output) -> ServiceResult<()> {
    let backend = Backend::connect(dir, &args, "ls").await?;
    let outcome = backend.service().works().await;
    backend.close().await;
    let works = outcome?;
    output.result("works", &json!({ "works": works }), || works_words(&works));
    Ok(())
}

pub(super) async fn peers(dir: &DataDir, args: NetworkArgs, output: &Output) -> ServiceResult<()> {
    let backend = Backend::connect(dir, &args, "peers").await?;
    let outcome = backend.service().peers().await;
    backend.close().await;
    let peers = outcome?;
    output.result("peers", &json!({ "peers": peers }), || peers_words(&peers));
    Ok(())
}

/// Prints the NodeID, and the bootstrap address while a daemon answers.
pub(super) async fn id(dir: &DataDir, output: &Output) -> ServiceResult<()> {
    let node_id = dir.identity()?.node_id();
    let status = match Backend::daemon_only(dir)? {
        Some(backend) => backend.service().node_status().await.ok(),
        None => None,
    };
    let bootstrap = status.as_ref().and_then(|status| daemon_bootstrap(status, node_id));
    let result = json!({ "node_id": node_id.to_string(), "bootstrap": bootstrap });
    output.result("id", &result, || match &bootstrap {
        Some(bootstrap) => format!("node id    {node_id}\nbootstrap  {bootstrap}"),
        None => format!("node id    {node_id}"),
    });
    if bootstrap.is_none() {
        output.say("no daemon answers here: `echonet node` starts one and gives it an address");
    }
    Ok(())
}

/// Prints the names of the crash points.
pub(super) fn crash_points(output: &Output) -> ServiceResult<()> {
    let names: Vec<&str> =
        NODE_CRASH_POINTS.iter().chain(echonet_vault::VAULT_CRASH_POINTS.iter()).copied().collect();
    output.result("crash_points", &json!({ "names": names }), || names.join("\n"));
    Ok(())
}

fn daemon_bootstrap(status: &NodeStatus, node_id: NodeId) -> Option<String> {
    let network: NetworkId = status.network_id.parse().ok()?;
    let addrs = status.addrs.iter().filter_map(|addr| addr.parse().ok()).collect();
    bootstrap_addr(network, node_id, addrs).map(|bootstrap| bootstrap.to_string())
}

fn work_words(status: &WorkStatus) -> String {
    let mut text = format!("{}: {} segments", status.content_id, status.segments.len());
    for segment in &status.segments {
        let alive = segment.shards.iter().filter(|shard| shard.alive).count();
        let all = segment.shards.len();
        let id = short(&segment.segment_id);
        // Writing to a String does not fail.
        let _ = write!(text, "\n  {id}  {}  {alive} of {all} shards alive", segment.scheme);
        for shard in segment.shards.iter().filter(|shard| !shard.alive) {
            let holder = if shard.holder.is_empty() { "nobody" } else { short(&shard.holder) };
            let _ = write!(text, "\n    shard {:2} is not answered for ({holder})", shard.index);
        }
    }
    text
}

fn node_words(status: &NodeStatus) -> String {
    let roles = if status.roles.is_empty() { "none".to_owned() } else { status.roles.join(", ") };
    let mut text = format!(
        "node     {}\nnetwork  {}\nroles    {roles}\nlistens  {}\npeers    {}\nepoch    {}\nworks    {}",
        status.node_id,
        status.network_id,
        status.addrs.join(", "),
        status.peers,
        status.epoch,
        status.works,
    );
    text.push_str(&limits_words(&status.limits));
    if let Some(vault) = &status.vault {
        let (live, used) = (ByteSize(vault.live_bytes), ByteSize(vault.used_bytes));
        let (quota, free) = (ByteSize(vault.quota_bytes), ByteSize(vault.free_pool_bytes));
        let _ = write!(
            text,
            "\nvault    {} shards, {live} in {} volumes; {used} of {quota} on disk, \
             {free} in the free pool",
            vault.shards, vault.volumes
        );
        if vault.quarantined > 0 {
            let _ =
                write!(text, "\n         {} shards found DAMAGED, set aside", vault.quarantined);
        }
    }
    if let Some(repair) = &status.repair {
        text.push_str(&repair_words(repair));
    }
    text
}

/// The caps, where there are any.
fn limits_words(limits: &LimitsStatus) -> String {
    let caps = [("up", limits.upload_cap), ("down", limits.download_cap)];
    let caps = caps.into_iter().filter_map(|(way, cap)| Some((way, ByteSize(cap?))));
    let mut parts: Vec<String> = caps.map(|(way, cap)| format!("{way} {cap}/s")).collect();
    if limits.quiet_hours > 0 {
        let now = if limits.quiet_now { ", now" } else { "" };
        let (hours, cap) = (limits.quiet_hours, ByteSize(limits.quiet_cap));
        parts.push(format!("{cap}/s in {hours} quiet hours a week{now}"));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("\nlimits   {}", parts.join(", ")),
    }
}

fn repair_words(repair: &RepairStatus) -> String {
    let RepairStatus { segments, whole, waiting, .. } = repair;
    let (read, written) = (ByteSize(repair.read_bytes), ByteSize(repair.written_bytes));
    let mut text = format!(
        "\nkeeping  {segments} segments, {whole} whole; {waiting} repairs wait or run\n\
         repaired {} shards: {read} read, {written} written",
        repair.repaired_shards
    );
    if repair.written_bytes > 0 {
        let per_byte = repair.read_bytes as f64 / repair.written_bytes as f64;
        // Writing to a String does not fail.
        let _ = write!(text, " ({per_byte:.1} bytes read for each)");
    }
    if repair.damaged_shards > 0 {
        let (damaged, healed) = (repair.damaged_shards, repair.healed_shards);
        let _ =
            write!(text, "\nscrubber {damaged} damaged shards found, {healed} made whole again");
    }
    text
}

fn works_words(works: &[Work]) -> String {
    if works.is_empty() {
        return "nothing published from here yet: `echonet publish FILE`".to_owned();
    }
    let line = |w: &Work| {
        let path = w.path.display();
        format!("{}  {:10}  {:10}  {path}", w.content_id, ByteSize(w.size).to_string(), w.state)
    };
    works.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn peers_words(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "no other node is known yet".to_owned();
    }
    let line = |p: &Peer| {
        let place = [&p.region, &p.datacenter, &p.operator].map(String::as_str).join("/");
        let (id, roles) = (short(&p.node_id), p.roles.join(","));
        format!("{id}  {:11}  {:21}  {roles:15}  {place}", p.state, p.addr)
    };
    peers.iter().map(line).collect::<Vec<_>>().join("\n")
}
