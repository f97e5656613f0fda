//! The last-known-good values on disk.
//!
//! One file: a line with its kind, version, length and SHA-256, then as many bytes of JSON. It is replaced whole: written beside,
//! synced, renamed over, and the folder synced, so that a crash at any moment leaves the old or the new. What is not exactly
//! what was written is set aside and never believed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::context::{Fingerprint, hex};
use super::keep::Good;

/// The flags of the contexts, the one that was learned longest ago first.
pub(super) type Contents = Vec<(Fingerprint, Values)>;
/// By the flags' keys.
pub(super) type Values = BTreeMap<Arc<str>, Arc<Good>>;

/// What reading the file brought.
pub(super) enum Found {
    Nothing,
    Contents(Contents),
    /// It is there and was not read; it is left alone.
    Unreadable(io::Error),
    /// It is not what was written.
    Damaged(String),
}

/// Reads `path`, of which no more than `most` bytes are believed.
pub(super) fn read(path: &Path, most: u64) -> Found {
    let bytes = match read_bytes(path, most) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => return Found::Unreadable(error),
    };
    if bytes.len() as u64 > most {
        return Found::Damaged(format!("it has more than {most} bytes"));
    }
    match decode(&bytes) {
        Ok(contents) => Found::Contents(contents),
        Err(why) => Found::Damaged(why),
    }
}

/// Reads one byte more than `most` if there is one.
fn read_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        // A pipe would block, a folder can't be read.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Moves a damaged file out of the way. There is one place for it, so that a disk that damages files does not fill up with them.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, "damaged");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Replaces `path`.
pub(super) fn write(path: &Path, contents: &Contents) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Two processes that were given the same file must not write into one another's.
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = beside(path, &format!("{}-{unique}.new", std::process::id()));
    let written = write_new(&temporary, &encode(contents)).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // Whether it goes away or was never there: the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = folder(path) {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(OWNER_ONLY);
    }
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Until the folder is synced, a crash may undo the rename.
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder(path).unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn folder(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn encode(contents: &Contents) -> Vec<u8> {
    let contexts: Vec<Value> = contents
        .iter()
        .map(|(fingerprint, flags)| {
            let flags: Map<String, Value> =
                flags.iter().map(|(key, good)| (key.to_string(), written(good))).collect();
            json!({"context": fingerprint.to_hex(), "flags": flags})
        })
        .collect();
    let body = json!({"contexts": contexts}).to_string();
    let mut bytes = format!("{KIND} {VERSION} {} {}\n", body.len(), checksum(body.as_bytes())).into_bytes();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn written(good: &Good) -> Value {
    let mut members = Map::new();
    members.insert("value".into(), good.value.clone());
    members.insert("at_ms".into(), u64::try_from(good.at.as_millis()).unwrap_or(u64::MAX).into());
    if let Some(variant) = &good.variant {
        members.insert("variant".into(), variant.as_str().into());
    }
    if !good.metadata.is_empty() {
        members.insert("metadata".into(), Value::Object(good.metadata.clone()));
    }
    Value::Object(members)
}

fn decode(bytes: &[u8]) -> Result<Contents, String> {
    let body = body(bytes)?;
    let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else {
        return Err("its contents are not a JSON object".into());
    };
    let Some(Value::Array(contexts)) = members.remove("contexts") else {
        return Err("it lists no contexts".into());
    };
    contexts
        .iter()
        .map(|context| of_context(context).ok_or_else(|| "a context in it makes no sense".into()))
        .collect()
}

/// What follows the first line, if it is what that promises.
fn body(bytes: &[u8]) -> Result<&[u8], String> {
    let end = bytes.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n');
    let line = end
        .and_then(|end| std::str::from_utf8(&bytes[..end]).ok())
        .ok_or("it does not begin as such a file does")?;
    let body = &bytes[line.len() + 1..];
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        [KIND, version, ..] if version != VERSION => {
            Err(format!("it is of version {version}, and version {VERSION} is what is known here"))
        }
        [KIND, _, length, _] if length.parse() != Ok(body.len()) => {
            Err(format!("it has {} bytes of contents and should have {length}", body.len()))
        }
        [KIND, _, _, sum] if sum != checksum(body) => Err("its contents do not match their checksum".into()),
        [KIND, _, _, _] => Ok(body),
        _ => Err("it does not begin as such a file does".into()),
    }
}

fn of_context(context: &Value) -> Option<(Fingerprint, Values)> {
    let fingerprint = Fingerprint::from_hex(context.get("context")?.as_str()?)?;
    let flags = context.get("flags")?.as_object()?.iter();
    let flags = flags.map(|(key, good)| Some((Arc::from(key.as_str()), Arc::new(of_flag(good)?))));
    Some((fingerprint, flags.collect::<Option<_>>()?))
}

fn of_flag(good: &Value) -> Option<Good> {
    Some(Good {
        value: good.get("value")?.clone(),
        variant: good.get("variant").and_then(Value::as_str).map(str::to_owned),
        metadata: good.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default(),
        at: Duration::from_millis(good.get("at_ms")?.as_u64()?),
    })
}

fn checksum(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What the file begins with.
const KIND: &str = "seaworthy-flags";
/// Counted up when the contents change their shape.
const VERSION: &str = "1";
/// The first line has some hundred bytes.
const LONGEST_LINE: usize = 256;
/// It says which flags are on for whom; see [`Fingerprint`].
#[cfg(unix)]
const OWNER_ONLY: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let good = Good {
            value: json!({"colour": "blue", "steps": [1, 2.5, null]}),
            variant: Some("b".into()),
            metadata: Map::from_iter([("owner".to_owned(), json!("shop"))]),
            at: Duration::from_millis(1_700_000_000_123),
        };
        let flags = BTreeMap::from([(Arc::from("theme \"x\"\n"), Arc::new(good))]);
        vec![(Fingerprint::of(&json!({"targetingKey": "anna"})), flags)]
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(decode(&encode(&contents())).unwrap(), contents());
        assert_eq!(decode(&encode(&Vec::new())).unwrap(), Vec::new());
    }

    #[test]
    fn cut_off_anywhere_it_is_damaged() {
        let whole = encode(&contents());
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "cut off after {length} bytes");
        }
        let longer = [&whole[..], b" "].concat();
        assert!(decode(&longer).is_err());
    }

    #[test]
    fn one_changed_bit_anywhere_is_found() {
        let whole = encode(&contents());
        for at in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(decode(&changed).is_err(), "bit {at}");
        }
    }

    #[test]
    fn what_is_whole_and_makes_no_sense_is_damaged() {
        for body in ["[]", "{}", r#"{"contexts":[{}]}"#, r#"{"contexts":[{"context":"00","flags":{}}]}"#] {
            let file = format!("{KIND} {VERSION} {} {}\n{body}", body.len(), checksum(body.as_bytes()));
            assert!(decode(file.as_bytes()).is_err(), "{body}");
        }
        let newer = String::from_utf8(encode(&contents())).unwrap().replacen(" 1 ", " 2 ", 1);
        assert!(decode(newer.as_bytes()).unwrap_err().contains("version 2"));
    }
}
