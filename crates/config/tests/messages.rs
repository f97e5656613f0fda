//! Every message there is, as a person reads it.

use seaworthy_config::Config;

/// What is said of `text`: all mistakes, or all warnings.
fn said(text: &str) -> String {
    match Config::from_toml("seaworthy.toml", text) {
        Ok(config) => config.warnings.iter().map(|warning| format!("{warning}\n\n")).collect(),
        Err(mistakes) => mistakes.to_string(),
    }
}

/// One test a message: a file that gets it, and the snapshot of what is said.
macro_rules! messages {
    ($($name:ident: $text:literal;)*) => {
        $(#[test]
        fn $name() {
            let said = said($text);
            assert!(!said.is_empty(), "nothing was said");
            insta::with_settings!({ description => $text, omit_expression => true }, {
                insta::assert_snapshot!(stringify!($name), said);
            });
        })*
    };
}

messages! {
    not_toml: "listen = \n[log\nadmin 3\n[upstream.a]\nendpoints = \"http://a\"\nendpoints = \"http://b\"\n";
    nothing_at_all: "";
    no_upstream: "listen = \"127.0.0.1:80\"\n[upstream]\n";
    unknown_key_at_the_top: "listn = \"127.0.0.1:80\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    unknown_key_far_from_any: "[upstream.a]\nendpoints = \"http://a\"\ncircuit = 3\n";
    key_one_table_too_high: "[upstream.a]\nendpoints = \"http://a\"\nattempts = 3\n";
    key_that_belongs_into_defaults: "deadline = \"3s\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    key_that_belongs_to_the_upstream: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nbreaker.mode = \"off\"\n";
    not_a_table: "log = \"json\"\n[upstream.a]\nendpoints = \"http://a\"\nretry = 3\n";
    upstream_is_not_a_table: "upstream = \"http://a\"\n";
    upstream_without_a_name: "[upstream]\nendpoints = \"http://a\"\n";
    upstream_with_an_odd_name: "[upstream.\"my shop\"]\nendpoints = \"http://a\"\n";
    upstream_without_endpoints: "[upstream.a]\n";
    route_in_single_brackets: "[upstream.a]\nendpoints = \"http://a\"\n[route]\npath = \"/\"\n";
    route_is_not_a_table: "route = [1]\n[upstream.a]\nendpoints = \"http://a\"\n";
    wrong_types: "listen = 8080\nworkers = \"4\"\nadmin_public = \"yes\"\ndrain = 1979-05-27\nlog = { level = [] }\n[upstream.a]\nendpoints = {}\nretry.attempts = true\nretry.jitter = 1.5\nbreaker.failure_rate = \"50%\"\n";
    bad_durations: "[upstream.a]\nendpoints = \"http://a\"\ndeadline = \"30\"\nidle_timeout = \"2sec\"\nconnect_timeout = \"0s\"\nretry.base = 25\nretry.cap = \"9999999h\"\nretry.most_pushback = \"1.5s\"\n";
    bad_sizes: "[limits]\nheader_bytes = \"1KiB\"\nbody_replay_bytes = \"64KB\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    numbers_out_of_range: "workers = 0\n[limits]\nheaders = -1\nmax_connections = 99999999999\n[upstream.a]\nendpoints = \"http://a\"\nretry.attempts = 300\nidle_connections = 0x1_0000\n";
    unknown_words: "[log]\nformat = \"jsno\"\nlevel = \"loud\"\n[upstream.a]\nendpoints = \"http://a\"\nbreaker.mode = \"Enforce\"\n";
    bad_addresses: "listen = [\"localhost:80\", \"127.0.0.1\"]\nadmin = \"none\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    bad_urls: "[upstream.a]\nendpoints = [\"localhost:1\", \"https://a\", \"http://a/x\", \"http://a:99999\"]\n";
    lists_empty_or_doubled: "listen = []\n[upstream.a]\nendpoints = [\"http://a\", \"http://b\", \"http://A:80/\"]\n";
    bad_route: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nname = \"\"\nhost = \"a.com:80\"\npath = \"shop*\"\nmethods = [\"get\", \"CONNECT\"]\nfallback = { status = 42, content_type = \"a\\nb\", bdy = \"\" }\n";
    clashing_listeners: "listen = [\"127.0.0.1:80\", \"0.0.0.0:80\"]\nadmin = \"127.0.0.1:80\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    listeners_listed_twice: "listen = [\"127.0.0.1:80\", \"127.0.0.1:80\"]\n[upstream.a]\nendpoints = \"http://a\"\n";
    admin_clashes_by_default: "listen = \"127.0.0.1:9901\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    admin_open_to_others: "admin = \"[::]:9901\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    several_upstreams_and_no_route: "[upstream.a]\nendpoints = \"http://a\"\n[upstream.b]\nendpoints = \"http://b\"\n";
    route_names_no_upstream: "[[route]]\npath = \"/\"\n[upstream.a]\nendpoints = \"http://a\"\n[upstream.b]\nendpoints = \"http://b\"\n";
    route_names_an_unknown_upstream: "[upstream.shop]\nendpoints = \"http://a\"\n[[route]]\nupstream = \"billing\"\n";
    routes_that_take_the_same: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\npath = \"/x\"\nmethods = [\"GET\", \"PUT\"]\n[[route]]\npath = \"/x/\"\nmethods = \"GET\"\n";
    routes_of_the_same_name: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nname = \"x\"\n[[route]]\nname = \"x\"\npath = \"/x\"\n";
    rules_of_the_core: "[upstream.a]\nendpoints = \"http://a\"\ntimeout.quantile = 1.5\nbreaker.failure_rate = 2\nretry.attempts = 0\nbudget.burst = 0\nhedge.most = 9\nhedge.budget.share = nan\nlimit.max_in_flight = 0\nbulkhead.concurrency = 0\n";
    rule_between_a_setting_and_a_default: "[upstream.a]\nendpoints = \"http://a\"\n[upstream.a.timeout]\nfloor = \"40s\"\n";
    rule_broken_in_defaults_is_told_once: "[defaults]\nretry.attempts = 0\n[upstream.a]\nendpoints = \"http://a\"\n";
    rule_between_a_setting_and_defaults: "[defaults.retry]\ncap = \"100ms\"\n[upstream.a]\nendpoints = \"http://a\"\nretry.base = \"200ms\"\n";
    fixed_timeout_past_the_deadline: "[upstream.a]\nendpoints = \"http://a\"\ndeadline = \"1s\"\ntimeout.fixed = \"2s\"\n";
    fixed_timeout_past_the_deadline_of_a_route: "[upstream.a]\nendpoints = \"http://a\"\ntimeout.fixed = \"2s\"\n[[route]]\ndeadline = \"1s\"\n";
    no_budget_for_retries: "[upstream.a]\nendpoints = \"http://a\"\nbudget = { share = 0, per_second = 0 }\n";
    warns_of_times_past_the_deadline: "[upstream.a]\nendpoints = \"http://a\"\ndeadline = \"1s\"\ntimeout.floor = \"2s\"\ntimeout.ceiling = \"3s\"\nretry.base = \"4s\"\nretry.cap = \"4s\"\nbulkhead.max_wait = \"5s\"\n";
    warns_of_a_deadline_below_the_floor: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\ndeadline = \"20ms\"\n";
    warns_of_breaker_times_past_the_timeout: "[upstream.a]\nendpoints = \"http://a\"\ntimeout.fixed = \"2s\"\nbreaker = { hung_after = \"5s\", slow_after = \"3s\" }\n";
    warns_of_a_limit_below_the_bulkhead: "[upstream.a]\nendpoints = \"http://a\"\nlimit.max_in_flight = 10\n";
    warns_of_a_hedge_with_one_endpoint: "[upstream.a]\nendpoints = \"http://a\"\nhedge.mode = \"observe\"\n";
    warns_of_an_upstream_that_no_route_leads_to: "[upstream.a]\nendpoints = \"http://a\"\n[upstream.b]\nendpoints = \"http://b\"\n[[route]]\nupstream = \"a\"\n";
    rules_point_at_what_was_written: "[upstream.a]\nendpoints = \"http://a\"\nbreaker.mode = \"observe\"\nbreaker.open_for = \"2m\"\nretry.mode = \"off\"\nretry.base = \"2s\"\n";
    no_budget_for_hedges: "[upstream.a]\nendpoints = [\"http://a\", \"http://b\"]\nhedge = { mode = \"enforce\", budget = { share = 0, per_second = 0 } }\n";
    endpoint_that_is_the_proxy_itself: "listen = \"0.0.0.0:80\"\n[upstream.a]\nendpoints = [\"http://a\", \"http://127.0.0.1\"]\n[upstream.b]\nendpoints = \"http://localhost:80\"\n[[route]]\nupstream = \"a\"\n[[route]]\npath = \"/b\"\nupstream = \"b\"\n";
    bad_sources: "[upstream.a]\nendpoints = [\n  \"htp://a\",\n  \"https://a\",\n  \"dns://a.internal\",\n  \"dns://10.0.0.1:80\",\n  \"dns://a.internal:0\",\n  \"dns://a_:80\",\n  \"dns://-a:80\",\n  \"srv://shop.internal\",\n  \"srv://_http._tcp\",\n  \"srv://_http._tcp.shop.internal:80\",\n  \"file://shop/targets.json\",\n  \"file:\",\n  \"file:targets/\",\n  \"process://\",\n  \"process://my api\",\n  3,\n]\n";
    bad_labels: "[upstream.a]\nendpoints = [\n  { url = \"http://a\", weight = 0 },\n  { url = \"http://b\", weight = \"2\" },\n  { url = \"http://c\", zone = \"eu west\" },\n  { url = \"http://d\", region = \"\u{e9}\", zone = 1 },\n  { zone = \"a\" },\n  { url = \"http://e\", wieght = 2 },\n  { url = \"http://f\", colour = \"red\" },\n  { url = \"https://g\" },\n]\n";
    sources_listed_twice: "[upstream.a]\nendpoints = [\"dns://a:80\", { url = \"dns://A:80\", weight = 2 }, \"file:b.json\", \"file:b.json\"]\n";
    no_endpoints_in_the_list: "[upstream.a]\nendpoints = []\n";
    source_that_is_the_proxy_itself: "[upstream.a]\nendpoints = [\"http://b\", \"dns://localhost:8080\"]\n";
    places_and_folders: "zone = \"eu/west\"\nregion = \"a b\"\ndata = \"\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    warns_of_a_weight_beside_those_of_records: "[upstream.a]\nendpoints = { url = \"srv://_http._tcp.a\", weight = 2 }\n";
    unknown_process: "[process.api]\ncommand = \"./api\"\n[upstream.a]\nendpoints = [\"process://apj\", \"process://worker\"]\n";
    warns_of_a_process_nobody_uses: "[process.api]\ncommand = \"./api\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    process_without_a_command: "[process.api]\nreplicas = 2\n[upstream.a]\nendpoints = \"process://api\"\n";
    process_without_a_name: "[process]\ncommand = \"./api\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    process_is_not_a_table: "process = \"./api\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    process_with_an_odd_name: "[process.\"my api\"]\ncommand = \"./api\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    bad_commands: "[process.a]\ncommand = []\n[process.b]\ncommand = \"\"\n[process.c]\ncommand = \"./api --port 3000\"\n[process.d]\ncommand = [\"./api\", 3000]\n[process.e]\ncommand = 1\n[process.f]\ncommand = [\"\", \"x\"]\n[process.g]\ncommand = [\"a\\u0000\"]\n[upstream.a]\nendpoints = [\"process://a\", \"process://b\", \"process://c\", \"process://d\", \"process://e\", \"process://f\", \"process://g\"]\n";
    bad_process: "[process.api]\ncommand = \"./api\"\ndir = \"\"\nreplicas = 0\nport_variable = \"MY PORT\"\nmemory = \"64kb\"\ncpu = 0\ngrace = \"2h\"\nweight = 2000\nready_timeout = \"0s\"\nenv = { \"A B\" = \"1\", C = 2 }\nready = { knd = \"http\" }\nrestart = { give_up = 0, retries = 3 }\n[upstream.a]\nendpoints = \"process://api\"\n";
    process_at_odds_with_itself: "[process.api]\ncommand = \"./api\"\nenv = { PORT = \"3000\" }\nrestart.base = \"20s\"\n[upstream.a]\nendpoints = \"process://api\"\n";
    warns_of_readiness_that_is_not_asked: "[process.api]\ncommand = \"./api\"\nready.path = \"/health\"\n[upstream.a]\nendpoints = \"process://api\"\n";
    bad_check: "[upstream.a]\nendpoints = \"http://a\"\n[upstream.a.check]\nkind = \"htpp\"\npath = \"health\"\nhost = \"http://a\"\nport = 0\nstatus = [\"200-\", \"299-200\", \"2xx\", 99, true]\nbody = \"(ok\"\nservice = \"my service\"\ncommand = \"./check --fast\"\ninterval = 5\n";
    rules_of_a_check: "[upstream.a]\nendpoints = \"http://a\"\n[upstream.a.check]\nkind = \"http\"\ninterval = \"500ms\"\nunsure_interval = \"1s\"\njitter = 2\ntimeout = \"0s\"\nup = 0\ndown = 0\n";
    check_by_a_command_that_is_not_named: "[upstream.a]\nendpoints = \"http://a\"\ncheck.kind = \"command\"\n";
    warns_of_a_check_that_does_not_look: "[upstream.a]\nendpoints = \"http://a\"\ncheck = { kind = \"grpc\", path = \"/health\", body = \"ok\" }\n";
    rules_of_balance_and_outliers: "[upstream.a]\nendpoints = \"http://a\"\nbalance = { algorithm = \"fastest\", panic_threshold = 2, overprovision = 0.5, load_bound = 0, slow_start = \"48h\", hash_on = \"header:\" }\noutlier = { window = \"0s\", minimum_failures = 0, error_excess = 1, slow_factor = 1, minimum_calls = 0, max_ejected = 0 }\n";
    sticking_to_nothing: "[upstream.a]\nendpoints = \"http://a\"\nbalance.algorithm = \"consistent_hash\"\n";
    warns_of_sticking_that_the_algorithm_ignores: "[upstream.a]\nendpoints = \"http://a\"\nbalance.hash_on = \"cookie:session\"\n";
    bad_discovery: "[upstream.a]\nendpoints = \"dns://a:80\"\ndiscovery = { resolvers = [\"10.0.0.2\"], ttl_floor = \"0s\", ttl_ceiling = \"48h\", file_poll = \"1ms\" }\n[upstream.b]\nendpoints = \"dns://b:80\"\ndiscovery.ttl_floor = \"2m\"\n[[route]]\nupstream = \"a\"\n[[route]]\npath = \"/b\"\nupstream = \"b\"\n";
    warns_of_a_region_above_the_limit: "[upstream.a]\nendpoints = \"http://a\"\nlimit = { max_in_flight = 100, per_region = 500 }\n";
    region_of_none: "[upstream.a]\nendpoints = \"http://a\"\nlimit.per_region = 0\n";
    bad_limits: "limit = { algorithm = \"vgas\", max_in_flight = 0, baseline_window = \"1s\", queue = { size = \"many\", max_wait = \"0s\", lifo = true } }\n[upstream.a]\nendpoints = \"http://a\"\nlimit = { algorithm = \"gradient2\", min_in_flight = 2000, baseline_window = \"1s\", queue = { size = 10, max_wait = \"0s\" } }\n[[route]]\nlimit = { algorithm = \"aimd\", slow_after = \"0s\", initial = 0 }\n";
    rule_of_a_limit_at_the_top: "[limit]\nalgorithm = \"vegas\"\nmax_in_flight = 3\n[upstream.a]\nendpoints = \"http://a\"\n";
    rule_of_a_queue_by_default: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\n[route.limit.queue]\nmax_wait = \"0s\"\n";
    warns_of_a_queue_before_no_limit: "[limit]\nmode = \"observe\"\nqueue.size = 5\n[upstream.a]\nendpoints = \"http://a\"\nlimit = { mode = \"off\", queue = { size = 5 } }\n[[route]]\nlimit = { mode = \"off\", queue = { max_wait = \"1s\" } }\n";
    warns_of_a_queue_past_the_deadline: "[upstream.a]\nendpoints = \"http://a\"\ndeadline = \"1s\"\nlimit.queue.max_wait = \"2s\"\n";
    bad_rates: "rate = { calls = 0, per = \"48h\", burst = 0, keys = 0, by = \"ip\", store = \"disk\", when_down = \"open\" }\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nrate = { calls = 10, per = 1, limit = 5 }\n";
    rate_in_a_store_that_is_not_there: "rate.store = \"redis\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\n[route.rate]\nstore = \"redis\"\n";
    warns_of_a_store_that_is_never_down: "[rate]\ncalls = 10\nwhen_down = \"allow\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    bad_redis: "[redis]\nurl = \"rediss://:hunter2@redis:6379\"\ntimeout = \"2s\"\nprefix = \"a b\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    substitute_that_is_no_name: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nsubstitute = { upstream = 5 }\n";
    bad_throttle: "[upstream.a]\nendpoints = \"http://a\"\nthrottle = { mode = \"on\", window = \"1ms\", multiplier = 0, most = 2, probes_per_second = -1 }\n";
    throttle_that_never_finds_out: "[upstream.a]\nendpoints = \"http://a\"\nthrottle = { most = 1, probes_per_second = 0 }\n";
    bad_pressure: "[pressure]\ncpu = 80\ncpu_stall = \"of\"\nmemory = 0\ndescriptors = \"90%\"\nfloor = 0\n[upstream.a]\nendpoints = \"http://a\"\n";
    bad_criticality: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\ncriticality = \"criticl\"\ntrust_criticality = \"yes\"\nclient_key = \"header:x user\"\n";
    bad_clients: "[[client]]\nkey = \"a\"\n[[client]]\ncriticality = \"sheddable\"\n[[client]]\nkey = \"b\"\ncriticality = \"low\"\n[[client]]\nkey = \"b\"\ncriticality = \"critical\"\nrate = 5\n[upstream.a]\nendpoints = \"http://a\"\n";
    client_in_single_brackets: "[client]\nkey = \"a\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    clients_are_not_tables: "client = [\"a\"]\n[upstream.a]\nendpoints = \"http://a\"\n";
    bad_body_limits: "[limits]\nbody_bytes = 1000\nbody_least_rate = \"0B\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    bad_stale: "[stale]\nmemory = \"1KiB\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nstale = { within = \"1ms\", serve_fresh = 1, entry_bytes = \"1GiB\", field = \"\", header = \"last updated\", age = 1 }\n";
    stale_answers_to_what_is_not_stored: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nmethods = \"POST\"\nstale.within = \"1h\"\n";
    bad_substitute: "[upstream.a]\nendpoints = \"http://a\"\n[upstream.b]\nendpoints = \"http://b\"\n[[route]]\nupstream = \"a\"\nsubstitute = { upstream = \"a\" }\n[[route]]\npath = \"/b\"\nupstream = \"b\"\nsubstitute = { upstream = \"popular\", path = \"popular\" }\n[[route]]\npath = \"/c\"\nupstream = \"b\"\nsubstitute = {}\n";
    degrade_without_its_table: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\ndegrade = [\"upstream\", \"static\"]\n";
    bad_degrade: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\ndegrade = [\"stael\"]\nfallback.body = \"x\"\n[[route]]\npath = \"/b\"\ndegrade = []\n[[route]]\npath = \"/c\"\ndegrade = \"of\"\n";
    warns_of_what_degrade_leaves_out: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\ndegrade = \"stale\"\nfallback.body = \"x\"\n";
    fallback_from_two_places: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nfallback = { body = \"x\", file = \"x.html\" }\n[[route]]\npath = \"/b\"\nfallback.file = \"pages/\"\n";
    flags_without_a_folder: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nflags.defaults = { a = true }\n";
    bad_flags: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nflags.defaults = { \"\" = true, b = 1979-05-27, c = [1, inf], d = 99999999999999999999 }\n[[route]]\npath = \"/b\"\nflags = { defaults = true, default = 1 }\n";
    bad_store_of_keys: "[idempotency]\nstore = \"postgrse\"\ntimeout = \"5m\"\ncache = \"64KiB\"\nwhen_corrupt = \"begin anew\"\nrecords = 0\nurl = \"mysql://me:hunter2@db/keys\"\npool = 0\nschema = \"2keys\"\nfsync = true\n[upstream.a]\nendpoints = \"http://a\"\n";
    bad_urls_of_keys: "[idempotency]\nstore = \"postgres\"\nurl = \"postgres://me:hunter2@db/keys?sslmode=require\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    bad_keys: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = { methods = \"post\", required = \"PSOT\", header = \"a b\", fingerprint_headers = [\"\", \"a\", \"A\"], keep = \"successes\", replay_headers = [], lease = 60, retention = \"0s\", unknown = \"forget\", busy = \"wait\", answer_bytes = \"0B\", request_bytes = 1000, when_down = \"local\", ttl = \"1h\" }\n";
    keys_without_a_folder: "[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = {}\n";
    keys_in_a_file_without_a_folder: "[idempotency]\ncache = \"8MiB\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = {}\n";
    keys_in_a_redis_that_is_not_there: "idempotency.store = \"redis\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = {}\n";
    keys_in_a_postgres_that_is_nowhere: "idempotency.store = \"postgres\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = {}\n";
    keys_held_for_less_than_a_call: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\ndeadline = \"2m\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = {}\n[[route]]\npath = \"/b\"\nclient_key = \"header:k\"\ndeadline = \"10s\"\nidempotency.lease = \"10s\"\n[[route]]\npath = \"/c\"\nclient_key = \"header:k\"\ndeadline = \"30s\"\nidempotency = { lease = \"1m\", retention = \"1m\" }\n";
    keys_held_for_less_than_a_call_and_a_step: "idempotency = { store = \"memory\", timeout = \"5s\" }\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency.lease = \"34s\"\n";
    keys_of_calls_without_an_end: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\ndeadline = \"off\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = {}\n";
    keys_of_what_changes_nothing: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = { methods = [\"GET\", \"POST\"], required = [\"POST\", \"PUT\", \"HEAD\"] }\n";
    keys_of_what_a_route_does_not_take: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nmethods = [\"GET\", \"PUT\"]\nidempotency = {}\n";
    keys_and_headers_of_a_connection: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = { header = \"Connection\", fingerprint_headers = [\"TE\"], replay_headers = [\"Transfer-Encoding\", \"Set-Cookie\", \"Idempotent-Replayed\"] }\n[[route]]\npath = \"/b\"\nclient_key = \"header:k\"\nidempotency.fingerprint_headers = \"idempotency-key\"\n";
    keys_of_what_may_be_sent_twice: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nrepeatable = \"always\"\nidempotency = {}\n";
    warns_of_keys_by_address: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nidempotency = {}\n";
    warns_of_keys_that_are_never_kept: "data = \"/d\"\nidempotency = {}\n[upstream.a]\nendpoints = \"http://a\"\n";
    warns_of_settings_of_another_store: "[idempotency]\nstore = \"memory\"\ncache = \"8MiB\"\nwhen_corrupt = \"refuse\"\nurl = \"postgres://me:hunter2@db/keys\"\npool = 4\nschema = \"keys\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency = {}\n";
    warns_of_keys_with_methods_that_do_not_come: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nmethods = [\"POST\"]\nidempotency.methods = [\"POST\", \"DELETE\"]\n";
    warns_of_fingerprints_that_change: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency.fingerprint_headers = [\"x-tenant\", \"traceparent\"]\n";
    keys_and_headers_that_carry_something_else: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency.header = \"Cookie\"\n[[route]]\npath = \"/0\"\nclient_key = \"header:k\"\nidempotency.header = \"authorization\"\n[[route]]\npath = \"/1\"\nclient_key = \"header:k\"\nidempotency.header = \"content-type\"\n[[route]]\npath = \"/2\"\nclient_key = \"header:k\"\nidempotency.header = \"host\"\n[[route]]\npath = \"/3\"\nclient_key = \"header:k\"\nidempotency.header = \"x-request-id\"\n[[route]]\npath = \"/4\"\nclient_key = \"header:k\"\nidempotency.header = \"X-Forwarded-For\"\n[[route]]\npath = \"/5\"\nclient_key = \"header:k\"\nidempotency.header = \"x-seaworthy-why\"\n[[route]]\npath = \"/6\"\nclient_key = \"header:k\"\nidempotency.header = \"k\"\n";
    keys_and_headers_of_the_proxy: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency.replay_headers = [\"Via\", \"x-request-id\", \"x-seaworthy-why\", \"Content-Length\", \"keep-alive\", \"location\"]\n";
    warns_of_headers_of_one_answer: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency.replay_headers = [\"Date\", \"age\", \"location\"]\n";
    warns_of_fingerprints_of_the_way: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nidempotency.fingerprint_headers = [\"forwarded\", \"X-Forwarded-For\", \"x-request-id\", \"traceparent\", \"date\", \"x-seaworthy-timeout-ms\", \"x-tenant\"]\n";
    warns_of_keys_that_never_repeat_and_do: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\nrepeatable = \"never\"\nidempotency.unknown = \"retry\"\n";
    warns_of_keys_waiting_past_the_deadline: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\ndeadline = \"10s\"\nidempotency.busy = \"10m\"\n[[route]]\npath = \"/b\"\nclient_key = \"header:k\"\ndeadline = \"10s\"\nidempotency.busy = \"10s\"\n";
    warns_of_keys_and_a_substitute: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nupstream = \"a\"\nclient_key = \"header:k\"\nsubstitute.upstream = \"b\"\nidempotency = {}\n[upstream.b]\nendpoints = \"http://b\"\n";
    warns_of_keys_that_all_clients_share: "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"none\"\nidempotency = {}\n";
    times_below_zero: "drain = \"-5s\"\n[limits]\nheader_bytes = \"-8KiB\"\n[upstream.a]\nendpoints = \"http://a\"\n";
    tabs_and_wide_letters: "[upstream.a]\n\tendpoints = [\"http://ä\",\t\"http://ö\"] # \u{1F6A2}\n";
}

#[test]
fn the_command_line_is_shown_like_a_file() {
    let mistakes = Config::from_command_line("localhost:3000", Some("8080"), Some("of")).unwrap_err();
    insta::assert_snapshot!(mistakes);
}

#[test]
fn mistakes_are_told_as_json() {
    let mistakes =
        Config::from_toml("seaworthy.toml", "[upstream.a]\nendponts = \"http://a\"\n").unwrap_err();
    insta::assert_snapshot!(serde_json::to_string_pretty(&mistakes).unwrap());
}
