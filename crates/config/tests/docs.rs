//! Every configuration that the documentation shows is one that works.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::{Path, PathBuf};

use seaworthy_config::Config;

#[test]
fn what_the_pages_show_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    pages.extend(markdown(&root.join("docs")));
    pages.extend(markdown(&root.join("docs/policies")));
    let mut shown = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            // A Cargo manifest, or a scenario, is not for the proxy.
            if block.contains("[dependencies]") || block.contains("[simulation]") {
                continue;
            }
            shown += 1;
            let name = page.display().to_string();
            if let Err(mistakes) = Config::from_toml(&name, block) {
                panic!("{name} shows what does not work:\n{block}\n{mistakes}");
            }
        }
    }
    assert!(shown >= 9, "only {shown} configurations were found");
}

fn markdown(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}
