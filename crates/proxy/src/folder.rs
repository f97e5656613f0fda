//! The folder for what outlives the process.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::path::Path;

use seaworthy::idempotency::store::embedded::OpenError;
use seaworthy_config::{Config, KeyStoreKind};

use crate::proxy::Error;

/// Makes the folder in which `config` keeps idempotency keys, if only that is missing. Where its parent is missing too, a disk may
/// not be there or a name be misspelt; to begin without keys then would be to forget those that were kept.
///
/// # Errors
/// It is not there and can't be made.
pub(crate) fn prepare(config: &Config) -> Result<(), Error> {
    let Some(folder) = of_keys(config) else { return Ok(()) };
    if fs::exists(folder).is_ok_and(|is_there| is_there) {
        return Ok(());
    }
    make(folder).map_err(|source| Error::Folder { path: folder.to_owned(), source: source.into() })
}

/// `error` as one of the folder, if it is that the store's file can't be had there.
pub(crate) fn to_blame(config: &Config, error: Error) -> Error {
    match (of_keys(config), error) {
        (Some(folder), Error::Keys(source))
            if matches!(source.downcast_ref(), Some(OpenError::Io { .. })) =>
        {
            Error::Folder { path: folder.to_owned(), source }
        }
        (_, error) => error,
    }
}

fn of_keys(config: &Config) -> Option<&Path> {
    match &config.idempotency.as_ref()?.kind {
        KeyStoreKind::Embedded { folder, .. } => Some(folder),
        _ => None,
    }
}

/// Results may be anybody's business, so nobody else may look.
fn make(folder: &Path) -> io::Result<()> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "nobody else has modes"))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(OWNER_ONLY);
    }
    match builder.create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Until its parent is synced, a crash may undo it, and with it all that is durable in it.
    #[cfg(unix)]
    {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(unix)]
const OWNER_ONLY: u32 = 0o700;

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::error::Error as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn with(folder: &Path) -> Config {
        let text = format!(
            "data = {folder:?}\nidempotency = {{}}\n[upstream.a]\nendpoints = \"http://127.0.0.1:1\"\n"
        );
        Config::from_toml("seaworthy.toml", &text).unwrap()
    }

    #[test]
    fn a_folder_that_is_missing_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        prepare(&with(&folder)).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, OWNER_ONLY);
        // And one that is there stays as it is.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        prepare(&with(&folder)).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o750);
    }

    #[test]
    fn a_folder_without_a_parent_is_named_with_what_to_do() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("missing/data");
        let error = prepare(&with(&folder)).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&folder.display().to_string()) && said.contains("make it"), "{said}");
        assert!(error.source().is_some_and(|cause| cause.to_string().contains("No such file")));
        assert!(!parent.path().join("missing").exists());
    }

    #[test]
    fn a_file_in_its_place_is_named_with_what_to_do() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("data");
        fs::write(&file, "").unwrap();
        let config = with(&file);
        prepare(&config).unwrap();
        let opened = OpenError::Io { file: file.clone(), what: "it is a file".into() };
        let error = to_blame(&config, Error::Keys(opened.into()));
        assert!(matches!(&error, Error::Folder { path, .. } if *path == file), "{error:?}");
        let locked = OpenError::Locked { file };
        let error = to_blame(&config, Error::Keys(locked.into()));
        assert!(matches!(error, Error::Keys(_)), "{error:?}");
    }

    #[test]
    fn nothing_is_made_where_no_keys_are_kept() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        let text = format!("data = {folder:?}\n[upstream.a]\nendpoints = \"http://127.0.0.1:1\"\n");
        prepare(&Config::from_toml("seaworthy.toml", &text).unwrap()).unwrap();
        assert!(!folder.exists());
    }
}
