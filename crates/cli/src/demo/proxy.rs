//! Seaworthy as the demo runs it: a configuration written for the shop, and `seaworthy run` as a child process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::children::{
    Addresses, FLAG_SERVICE, NEAR, PRICES, Process, RECOMMENDATIONS, REGIONS, SERVICES, SIDE_NUMBERS, SIDES,
    START_WITHIN, SideAddresses, region_of, words_to,
};
use super::ports;
use crate::failure::Failure;

/// The running proxy. Dropping it ends its process and removes its files.
pub(super) struct Proxy {
    /// Where calls go.
    pub(super) address: SocketAddr,
    /// Where its state is read.
    pub(super) admin: SocketAddr,
    process: Process,
    log: PathBuf,
    _directory: Directory,
}

impl Proxy {
    /// Writes the configuration, starts the proxy, and waits until it accepts connections.
    pub(super) async fn start(shop: &Addresses, sides: &SideAddresses) -> Result<Self, Failure> {
        let directory = Directory::new()?;
        let [address, admin] =
            ports::free().map_err(|error| Failure::because("found no free port for the proxy", error))?;
        let (file, log) = (directory.0.join("shop.toml"), directory.0.join("proxy.log"));
        let write = |error| Failure::because(format!("could not write to {}", directory.0.display()), error);
        fs::write(&file, configuration(shop, sides, address, admin, &directory.0)).map_err(write)?;
        let words = File::create(&log).map_err(write)?;

        let mut command = Process::ourselves("run")?;
        command.arg("--leashed").arg(&file);
        words_to(&mut command, &words).map_err(write)?;
        let process = Process::start("the proxy", &mut command)?;
        let mut proxy = Self { address, admin, process, log, _directory: directory };
        for address in [address, admin] {
            proxy.accepts(address).await?;
        }
        Ok(proxy)
    }

    /// Waits until `address` accepts connections.
    async fn accepts(&mut self, address: SocketAddr) -> Result<(), Failure> {
        let begun = Instant::now();
        while let Err(error) = TcpStream::connect(address).await {
            self.must_live()?;
            if begun.elapsed() > START_WITHIN {
                return Err(Failure::because(format!("the proxy does not listen on {address}"), error));
            }
            sleep(BETWEEN_TRIES).await;
        }
        Ok(())
    }

    /// A failure, with what the proxy said last, if it has ended.
    pub(super) fn must_live(&mut self) -> Result<(), Failure> {
        self.process.must_live().map_err(|failure| {
            let words =
                fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(log unreadable: {error})"));
            let from = words.len().saturating_sub(LAST_WORDS);
            let from = (from..=words.len()).find(|&at| words.is_char_boundary(at)).unwrap_or(0);
            Failure::because(failure.to_string(), words[from..].trim().to_owned())
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// A directory of our own, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("seaworthy-demo-{}", std::process::id()));
        // A directory of that name can only be left from a demo that was killed and whose process id came round again.
        // Anything else of that name makes the creation fail, which is as it should be.
        remove(&path).and_then(|()| fs::create_dir(&path)).map_err(|error| {
            Failure::because(format!("could not make the directory {}", path.display()), error)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What can't be removed now is in the system's directory for temporary files, which gets emptied.
        let _ = remove(&self.0);
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The configuration of the proxy in front of `shop`. It differs from the defaults only where the shop does from an
/// average service, and says why.
fn configuration(
    shop: &Addresses,
    sides: &SideAddresses,
    address: SocketAddr,
    admin: SocketAddr,
    data: &Path,
) -> String {
    // A path in quotes of its own, as a directory for temporary files may have any name.
    let data = serde_json::Value::from(data.to_string_lossy());
    let mut toml = format!(
        "listen = \"{address}\"\nadmin = \"{admin}\"\n# What flags last were is kept there.\ndata = {data}\n{}{POLICIES}",
        region(REGIONS[NEAR])
    );
    for (service, (name, instances)) in SERVICES.iter().zip(shop).enumerate() {
        toml.push_str(&upstream(name, &format!("/{name}"), (1..).zip(instances.iter().copied())));
        toml.push_str(match service {
            PRICES => INSTEAD_OF_PRICES,
            RECOMMENDATIONS => INSTEAD_OF_RECOMMENDATIONS,
            _ => "",
        });
    }
    for (name, instances) in SIDES.iter().zip(sides) {
        let numbered = SIDE_NUMBERS.into_iter().zip(instances.iter().copied());
        let (path, instead) = match *name {
            FLAG_SERVICE => ("/ofrep".to_owned(), INSTEAD_OF_FLAGS),
            _ => (format!("/{name}"), INSTEAD_OF_THE_PAGE),
        };
        toml.push_str(&upstream(name, &path, numbered));
        toml.push_str(instead);
        toml.push_str(&format!("\n[upstream.{name}.breaker]\n{FEW}"));
    }
    toml
}

/// An upstream and the route to it; what stands below belongs to the route.
fn upstream(name: &str, path: &str, instances: impl Iterator<Item = (usize, SocketAddr)>) -> String {
    let endpoints: String = instances.map(|(number, address)| endpoint(number, address)).collect();
    format!(
        "\n[upstream.{name}]\nendpoints = [\n{endpoints}]\n\n[[route]]\nname = \"{name}\"\npath = \"{path}\"\nupstream = \"{name}\"\n"
    )
}

fn region(name: &str) -> String {
    format!(
        "# Where the proxy is: its calls stay there as long as enough is well there.\nregion = \"{name}\"\n"
    )
}

fn endpoint(number: usize, address: SocketAddr) -> String {
    format!("  {{ url = \"http://{address}\", region = \"{}\" }},\n", REGIONS[region_of(number)])
}

const POLICIES: &str = r#"
[log]
# Not a line for each of hundreds of calls a second.
access = false
level = "warn"

[defaults]
# What the shop's customers wait at most.
deadline = "1s"

[defaults.timeout]
# At first and at most: three attempts must fit into the deadline.
initial = "250ms"
ceiling = "250ms"

[defaults.hedge]
# Reading twice does no harm in this shop.
mode = "enforce"
# Twice what a healthy instance takes at most, so that hedges are for what is wrong.
floor = "10ms"

[defaults.breaker]
# Ten times what a healthy instance takes at most: such an instance is as good as gone.
slow_after = "50ms"
slow_rate = 0.5
# The phases of the demo are seconds long; so must be what the breakers remember and wait.
window = "3s"
minimum_calls = 10
open_for = "1s"
open_at_most = "4s"
ramp = "2s"
"#;

const INSTEAD_OF_PRICES: &str = r#"
# Prices of a few minutes ago are still prices, if they say how old they are.
[route.stale]
within = "10m"
field = "last_updated"
# While the service is well, prices are its own and of now.
serve_fresh = false
"#;

const INSTEAD_OF_THE_PAGE: &str = r#"
# The page is a file, and the same for everybody.
[route.stale]
serve_fresh = false
"#;

const FEW: &str = r#"# Of two instances, a slow one is better than none.
slow_after = "off"
"#;

const INSTEAD_OF_FLAGS: &str = r#"
# What a flag last was, and for those of whom nothing is known the cautious choice.
[route.flags]
defaults = { new-checkout = false }
"#;

const INSTEAD_OF_RECOMMENDATIONS: &str = r#"
# What everybody buys is a good guess for anybody.
[route.substitute]
upstream = "shop"
path = "/shop/popular"

# A shop without recommendations is still a shop.
[route.fallback]
status = 200
content_type = "application/json"
body = '{"title":"Picked for you","items":[]}'
"#;

/// Starting takes some ten milliseconds.
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// How much of the proxy's log is worth showing, in bytes.
const LAST_WORDS: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_valid_and_raises_no_warning() {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let shop: Addresses =
            std::array::from_fn(|s| std::array::from_fn(|i| local(20_000 + 10 * s as u16 + i as u16)));
        let sides: SideAddresses =
            std::array::from_fn(|s| std::array::from_fn(|i| local(21_000 + 10 * s as u16 + i as u16)));
        let toml = configuration(&shop, &sides, local(19_000), local(19_001), Path::new("/tmp"));
        let config = seaworthy_config::Config::from_toml("shop.toml", &toml).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!((config.upstreams.len(), config.routes.len()), (6, 6));
        let regions = |upstream: &seaworthy_config::Upstream| {
            upstream.sources.iter().map(|source| source.labels.region.clone()).collect::<Vec<_>>()
        };
        assert_eq!(config.region, "near");
        let (services, sides) = config.upstreams.split_at(SERVICES.len());
        assert!(services.iter().all(|it| regions(it) == ["near", "near", "near", "far", "far"]));
        assert!(sides.iter().all(|it| regions(it) == ["near", "far"]));
        let instead = |path| {
            let (_, route) = config.route(None, path, "GET").unwrap();
            route.degrade.iter().map(seaworthy_config::Degrade::name).collect::<Vec<_>>()
        };
        assert_eq!(instead("/recommendations/7"), ["upstream", "static"]);
        assert_eq!(instead("/prices/7"), ["stale"]);
        assert!(config.route(None, "/ofrep/v1/evaluate/flags/x", "POST").unwrap().1.flags.is_some());
        assert_eq!(instead("/shop"), ["stale"]);
        assert!(instead("/orders/7").is_empty());
    }
}
