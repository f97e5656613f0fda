//! What the comparisons of proxies set up: folders, ports, configurations.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// nginx with one worker, which is also its master: one process to measure and to end.
#[must_use]
pub fn nginx(folder: &Path, log: &str, http: &str) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error error;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n{temporary}{log}\nkeepalive_requests 1000000000;\n{http}\n}}\n"
    )
}

/// A port that was free a moment ago.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

/// A folder of this name in `place`, made if it isn't there.
///
/// # Errors
/// It can't be made.
pub fn folder(place: &Path, name: &str) -> Result<PathBuf, String> {
    let folder = place.join(name);
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
    Ok(folder)
}

/// Runs `work` with a folder that is gone afterwards, whether it succeeded or not.
///
/// # Errors
/// The folder can't be made or removed; or those of `work`.
pub fn with_folder<T>(work: impl FnOnce(&Path) -> Result<T, String>) -> Result<T, String> {
    let folder = folder(&std::env::temp_dir(), &format!("seaworthy-bench-{}", std::process::id()))?;
    let done = work(&folder);
    std::fs::remove_dir_all(&folder)
        .map_err(|error| format!("{} can't be removed: {error}", folder.display()))?;
    done
}

/// Writes the file and returns its path.
///
/// # Errors
/// It can't be written.
pub fn write(file: &Path, text: &str) -> Result<String, String> {
    std::fs::write(file, text).map_err(|error| format!("{} can't be written: {error}", file.display()))?;
    Ok(file.display().to_string())
}

/// Our binary, as `cargo xtask bench` builds it.
#[must_use]
pub fn ours() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/seaworthy")
}

/// Debian keeps daemons where a user's path doesn't lead.
#[must_use]
pub fn find(program: PathBuf) -> PathBuf {
    let inside = Path::new("/usr/sbin").join(&program);
    if inside.is_file() { inside } else { program }
}

/// The whole answer to a GET for `path` at `port` of this machine.
///
/// # Errors
/// No connection, none within a second, or one that broke off.
pub fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
