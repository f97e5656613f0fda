//! Stopping without breaking anything off.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use common::{Client, Running, Upstream, eventually, ok};

#[test]
fn calls_in_flight_finish_while_new_connections_are_refused() {
    let (arrived, arrives) = channel();
    let (release, released) = channel::<()>();
    let (arrived, released) = (Mutex::new(arrived), Arc::new(Mutex::new(released)));
    let upstream = Upstream::answering(move |_, _| {
        arrived.lock().unwrap().send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        ok("finished")
    });
    let mut proxy = Running::before(&[upstream.address], "");
    assert_eq!(ready(&proxy), 200);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    arrives.recv().unwrap();
    proxy.tell_to_stop();
    eventually("it is not ready", || ready(&proxy) == 503);
    eventually("the listener is closed", || TcpStream::connect(proxy.address).is_err());
    release.send(()).unwrap();
    let reply = client.reply();
    assert_eq!((reply.status, reply.text()), (200, "finished"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(client.is_closed());
    proxy.join();
}

#[test]
fn idle_connections_do_not_hold_it_up() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.get("/");
    let mut silent = proxy.client();
    let mut proxy = proxy;
    proxy.tell_to_stop();
    assert!(client.is_closed() && silent.is_closed());
    proxy.join();
}

#[test]
fn requests_that_have_come_already_are_served() {
    let upstream = Upstream::echo();
    let mut proxy = Running::before(&[upstream.address], "");
    let mut clients: Vec<Client> = (0..32).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    for client in &mut clients {
        client.send("GET /last HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    proxy.tell_to_stop();
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    proxy.join();
}

fn ready(proxy: &Running) -> u16 {
    let mut client = Client::connect(proxy.admin.unwrap());
    client.send("GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n");
    client.reply().status
}
