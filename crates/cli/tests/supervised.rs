//! Supervised processes behind an upstream, under load: they join, leave, are restarted, and can't be started.

mod common;

use std::time::Duration;

use common::shop::{Proxy, Stream, errors, eventually};
use common::{seaworthy, stderr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);

fn configured(more: &str) -> String {
    let program = seaworthy().get_program().to_string_lossy().into_owned();
    let command =
        format!("exec {program} demo-service --unleashed --name shop --instance 1 --port $PORT >/dev/null");
    format!(
        "[log]\naccess = false\n[process.shop]\ncommand = [\"sh\", \"-c\", {command:?}]\nreplicas = 3\n\
         ready = {{ kind = \"http\", path = \"/health\" }}\n{more}\n[upstream.shop]\nendpoints = \"process://shop\"\n"
    )
}

fn replicas(proxy: &Proxy) -> Vec<Value> {
    proxy.named("/api/processes", "processes", "shop")["replicas"].as_array().cloned().unwrap_or_default()
}

fn pids(proxy: &Proxy) -> Vec<u64> {
    replicas(proxy).iter().filter_map(|replica| replica["pid"].as_u64()).collect()
}

fn known(proxy: &Proxy) -> usize {
    proxy.state()["upstreams"][0]["endpoints"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_rolling_restart_loses_no_call() {
    let proxy = Proxy::start("rolling.toml", &configured(""));
    eventually("all are known", || known(&proxy) == 3);
    let before = pids(&proxy);
    let stream = Stream::start(proxy.address, 200);
    stream.go_on(SECOND);
    let admin = proxy.admin.to_string();
    let output = seaworthy().args(["restart", "shop", "--admin", &admin]).output().expect("the command runs");
    assert!(output.status.success(), "{}", stderr(&output));
    stream.go_on(SECOND);
    let after = pids(&proxy);
    assert!(after.len() == 3 && before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
    assert_eq!(errors(&stream.finish()), "");
}

#[test]
fn a_replica_that_is_killed_leaves_and_joins_again() {
    let proxy = Proxy::start("killed-replica.toml", &configured(""));
    eventually("all are known", || known(&proxy) == 3);
    let stream = Stream::start(proxy.address, 200);
    stream.go_on(SECOND);
    let victim = pids(&proxy)[0];
    kill(Pid::from_raw(victim as i32), Signal::SIGKILL).expect("it lives");
    eventually("another takes its place", || {
        let now = pids(&proxy);
        now.len() == 3 && !now.contains(&victim) && known(&proxy) == 3
    });
    stream.go_on(SECOND);
    assert_eq!(errors(&stream.finish()), "");
}

#[test]
fn a_command_that_does_not_exist_is_told_and_given_up() {
    let toml = "[process.shop]\ncommand = [\"/no/such/program\"]\n[process.shop.restart]\nbase = \"5ms\"\ncap = \"5ms\"\n\
                give_up = 2\n[upstream.shop]\nendpoints = \"process://shop\"\n";
    let proxy = Proxy::start("no-command.toml", toml);
    eventually("it is given up", || replicas(&proxy)[0]["state"] == "given up");
    let detail = replicas(&proxy)[0]["detail"].to_string();
    assert!(detail.contains("/no/such/program"), "{detail}");
    let trouble = proxy.state()["upstreams"][0]["sources"][0].to_string();
    assert!(trouble.contains("process://shop") && trouble.contains("/no/such/program"), "{trouble}");
    let admin = proxy.admin.to_string();
    let output = seaworthy().args(["restart", "shop", "--admin", &admin]).output().expect("the command runs");
    assert!(!output.status.success() && stderr(&output).contains("/no/such/program"), "{}", stderr(&output));
}

#[test]
fn no_replica_outlives_the_proxy() {
    let mut proxy = Proxy::start("outlived.toml", &configured(""));
    eventually("all are known", || known(&proxy) == 3);
    let children = pids(&proxy);
    proxy.process.signal(Signal::SIGTERM);
    proxy.process.wait();
    for pid in children {
        assert!(kill(Pid::from_raw(pid as i32), None).is_err(), "{pid} lives");
    }
}
