//! No message shows a password: not in its own words, and not in the line of the file that it points at.

use seaworthy_config::Config;

/// Everything that is said of `text`, for people and for machines. Something is.
fn said(text: &str) -> String {
    let said = match Config::from_toml("seaworthy.toml", text) {
        Ok(config) => {
            let warnings: String = config.warnings.iter().map(ToString::to_string).collect();
            assert!(!warnings.is_empty(), "nothing was said of\n{text}");
            format!("{warnings}{}{config:?}", serde_json::to_string(&config.warnings).unwrap_or_default())
        }
        Err(mistakes) => {
            format!("{mistakes}{}{mistakes:?}", serde_json::to_string(&mistakes).unwrap_or_default())
        }
    };
    assert!(said.contains("seaworthy.toml"), "{said}");
    said
}

const UPSTREAM: &str = "\n[upstream.a]\nendpoints = \"http://a\"\n";

#[test]
fn a_wrong_value_is_not_shown() {
    for wrong in [
        "[idempotency]\nstore = \"postgres\"\nurl = \"postgres://me:hunter2@h/db?sslmode=require\"",
        "[idempotency]\nstore = \"postgres\"\nurl = \"postgres://me:hunter2@h\"",
        "[idempotency]\nstore = \"postgres\"\nurl = \"postgres://me@h/db?password=hunter2\"",
        "[idempotency]\nstore = \"postgres\"\nurl = '''\npostgres://me:hunter2@h'''",
        "[idempotency]\nstore = \"postgres\"\nurl = [\"postgres://me@h/db?password=hunter2\"]",
        "[idempotency]\nurl = { password = \"hunter2\" }",
        "[redis]\nurl = \"rediss://:hunter2@h\"",
        "[redis]\nurl = \"redis://hunter2@h:1\"",
        "[process.a]\ncommand = \"./a\"\nenv = { \"A B\" = \"hunter2\" }",
        "[process.a]\ncommand = \"./a\"\nenv = { PORT = \"hunter2\" }",
        "[process.a]\ncommand = \"./a\"\nenv = \"TOKEN=hunter2\"",
        "[process.a]\ncommand = \"./a\"\nenv = [\"TOKEN=hunter2\"]",
        "[process.a]\ncommand = \"./a\"\n[process.a.env]\nTOKEN = [\"hunter2\"]",
        "[process]\nenv = { TOKEN = \"hunter2\" }",
        "[[client]]\nkey = \"hunter2\"\ncriticality = \"critical\"\n[[client]]\nkey = \"hunter2\"\ncriticality = \"critical\"",
        "[[client]]\nkey = [\"hunter2\"]\ncriticality = \"critical\"",
    ] {
        let said = said(&format!("{wrong}{UPSTREAM}"));
        assert!(!said.contains("hunter2"), "{wrong}\n{said}");
    }
}

#[test]
fn a_number_that_should_be_a_text_is_not_repeated() {
    let said = said(&format!("[[client]]\nkey = 4711\ncriticality = \"critical\"{UPSTREAM}"));
    assert!(said.contains("client.key is a number, not a text") && !said.contains("4711"), "{said}");
}

/// What is said of one setting shows what stands beside it in the line.
#[test]
fn a_neighbour_in_the_line_is_not_shown() {
    for wrong in [
        "redis = { url = \"redis://:hunter2@h\", timeout = \"2h\" }",
        "redis = { timeout = \"2h\", url = 'redis://:hunter2@h' }",
        "redis = { url = \"redis://:hunter2@h\", databse = 3 }",
        "idempotency = { store = \"redis\", url = \"postgres://me:hunter2@h/db\" }",
        "idempotency = { store = \"memory\", url = \"postgres://me:hunter2@h/db\" }",
        "client = [{ key = \"hunter2\" }]",
        "client = { key = \"hunter2\" }",
        "process.a = { command = 3, env = { TOKEN = \"hunter2\" } }",
    ] {
        let said = said(&format!("{wrong}{UPSTREAM}"));
        assert!(!said.contains("hunter2"), "{wrong}\n{said}");
    }
}

#[test]
fn a_secret_in_a_wrong_place_is_not_shown() {
    for wrong in [
        "redis = \"redis://:hunter2@h\"",
        "redis = \"hunter2\"",
        "[[redis]]\nurl = \"redis://:hunter2@h\"",
        "idempotency = [\"hunter2\"]",
        "[redis]\npassword = \"hunter2\"",
        "[idempotency]\nuri = \"hunter2\"",
        "redsi = { url = \"redis://:hunter2@h\" }",
        "database = \"postgres://me:hunter2@h/db\"",
        "[process.a]\ncommand = \"./a\"\nTOKEN = \"hunter2\"",
        "client = \"hunter2\"",
        "client = [\"hunter2\"]",
        "listen = \"http://me:hunter2@h\"",
        "[upstream.b]\nendpoints = [\"http://me:hunter2@h\"]",
    ] {
        let said = said(&format!("{wrong}{UPSTREAM}"));
        assert!(!said.contains("hunter2"), "{wrong}\n{said}");
    }
}

#[test]
fn a_line_that_is_not_toml_hides_what_it_may_hold() {
    for wrong in [
        "[redis]\nurl = \"redis://:hunter2@h",
        "[redis]\nurl = hunter2",
        "[redis]\nurl = \"\\hunter2\"",
        "[idempotency]\nurl \"hunter2\"",
        "[idempotency]\nurl = \"a\"\nurl = \"hunter2\"",
        "redis.url = hunter2",
        "redis = { url = \"hunter2\" timeout = \"1s\" }",
        "[[client]]\nname = \"a\" key = \"hunter2\"",
        "[process.a.env]\nTOKEN = hunter2",
        "[process.a.env]\nTOKEN = \"hunter2",
        "[upstream.b]\nendpoints = [\"http://me:hunter2@h\" \"http://b\"]",
    ] {
        let said = said(&format!("{wrong}{UPSTREAM}"));
        assert!(!said.contains("hunter2"), "{wrong}\n{said}");
    }
}

#[test]
fn an_argument_with_a_password_is_not_shown() {
    let Err(mistakes) = Config::from_command_line("http://me:hunter2@h", None, None) else {
        panic!("it was taken");
    };
    let said = format!("{mistakes}{mistakes:?}");
    assert!(!said.contains("hunter2"), "{said}");
    insta::assert_snapshot!(mistakes);
}

/// The caret stands under what is hidden, and columns are those of the file.
#[test]
fn what_is_hidden_keeps_its_place() {
    let text = "redis = { url = \"redis://:hünter2@h\", timeout = \"2h\" }\n\
                [idempotency]\nurl = 'postgres://me:hunter2@h/db?sslmode=require'\n[upstream.a]\nendpoints = \"http://a\"\n";
    let Err(mistakes) = Config::from_toml("seaworthy.toml", text) else { panic!("it was taken") };
    let place = &mistakes.errors[1].place;
    assert_eq!((place.line, place.column, place.width), (1, 49, 4));
    insta::assert_snapshot!(mistakes);
}
