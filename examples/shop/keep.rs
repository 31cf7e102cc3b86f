//! `KEEP=1`: leaves a demo running, says where everything is, and ends it when asked.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anabranch::config::{Config, StoreConfig};
use serde::{Deserialize, Serialize};

use crate::support::services::address;
use crate::support::world::{self, World};
use crate::{Failure, say};

/// A demo that was left running.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The name of its database and of everything else.
    name: String,
    /// The daemon's process id.
    pid: u32,
    /// Its folder.
    folder: PathBuf,
}

/// Where kept demos are remembered.
fn records() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    home.join(".cache/anabranch/shop")
}

/// Leaves everything of `world` where it is, and says how to look at it and how to end it.
pub(crate) async fn leave(mut world: World) -> Result<(), Failure> {
    world.stop().await;
    let (name, folder) = (world.name.clone(), world.path(""));
    let kept = Kept { pid: detached(&folder)?, name, folder };
    fs::create_dir_all(records())?;
    fs::write(records().join(format!("{}.json", kept.name)), serde_json::to_vec(&kept)?)?;
    let config = world.config();
    // Its drop would remove it.
    std::mem::forget(world);
    say(&format!("Left running (KEEP=1), daemon {}; look around:\n", kept.pid));
    for (what, how) in addresses(&kept, &config)? {
        say(&format!("  {what:<14} {how}"));
    }
    say("\nTo end it and remove all of this: examples/shop/demo stop");
    Ok(())
}

/// A daemon that outlives the terminal.
fn detached(folder: &Path) -> Result<u32, Failure> {
    let log = OpenOptions::new().append(true).create(true).open(folder.join("daemon.log"))?;
    let mut command = Command::new(world::binary());
    command.arg("--config").arg(folder.join("anabranch.toml")).arg("run").process_group(0);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?.id())
}

fn addresses(kept: &Kept, config: &Config) -> Result<Vec<(&'static str, String)>, Failure> {
    let name = &kept.name;
    let file = kept.folder.join("anabranch.toml");
    let binary = world::binary();
    let mut lines = vec![
        ("anabranch", format!("{} --config {} status", binary.display(), file.display())),
        (
            "daemon",
            format!(
                "curl http://{}/status; its log: {}",
                config.admin.listen,
                kept.folder.join("daemon.log").display()
            ),
        ),
        ("PostgreSQL", format!("psql {}", world::database_url(name))),
        (
            "Kafka",
            format!(
                "{}, topics {name}.public.*; registry {}",
                config.kafka.brokers, config.registry.url
            ),
        ),
    ];
    for sink in config.sinks.values() {
        lines.push(match &sink.store {
            StoreConfig::Elasticsearch(store) => (
                "Elasticsearch",
                format!("curl '{}/{}orders/_search?pretty&size=1'", store.url, store.index_prefix),
            ),
            StoreConfig::Redis(_) => ("Redis", redis_line(name)?),
            StoreConfig::Delta(store) => ("Delta", format!("{}/public/orders", store.root)),
        });
    }
    Ok(lines)
}

fn redis_line(name: &str) -> Result<String, Failure> {
    let url = url::Url::parse(&address("REDIS_URL"))?;
    let (password, port) = (url.password().unwrap_or_default(), url.port().unwrap_or(6379));
    let host = url.host_str().unwrap_or("localhost");
    Ok(format!(
        "REDISCLI_AUTH={password} redis-cli -h {host} -p {port} hgetall {name}:products:P-1210"
    ))
}

/// Ends every demo that was left running.
pub(crate) async fn stop_all() -> Result<(), Failure> {
    let mut found = 0;
    for entry in fs::read_dir(records()).into_iter().flatten() {
        let record = entry?.path();
        let kept: Kept = serde_json::from_slice(&fs::read(&record)?)?;
        say(&format!("removing demo {}", kept.name));
        let file = kept.folder.join("anabranch.toml");
        end(kept.pid, &file);
        if let Ok(config) = Config::read(&file) {
            world::remove(&config, &kept.name).await;
        }
        drop(fs::remove_dir_all(&kept.folder));
        fs::remove_file(&record)?;
        found += 1;
    }
    say(&format!("{found} demos removed"));
    Ok(())
}

/// Kills the daemon, if the process of that id is still the one that reads `file`.
fn end(pid: u32, file: &Path) {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<_> = command.split(|byte| *byte == 0).collect();
    if arguments.contains(&file.as_os_str().as_encoded_bytes()) {
        world::signal(pid, "KILL");
    }
}
