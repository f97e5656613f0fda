//! Tells what is new, and only that.

use super::{News, Target};

/// Remembers what a source has told.
pub(super) struct Teller<'a> {
    tell: &'a mut dyn FnMut(News),
    targets: Option<Vec<Target>>,
    trouble: Option<String>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(tell: &'a mut dyn FnMut(News)) -> Self {
        Self { tell, targets: None, trouble: None }
    }

    /// The source was asked: what is known now (`None` if nothing was ever known), and what went wrong.
    pub(super) fn asked(&mut self, targets: Option<Vec<Target>>, trouble: Option<String>) {
        let is_over = self.trouble.is_some() && trouble.is_none();
        if let Some(mut targets) = targets {
            targets.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
            targets.dedup_by(|a, b| (&a.host, a.port) == (&b.host, b.port));
            if is_over || self.targets.as_ref() != Some(&targets) {
                self.targets = Some(targets.clone());
                (self.tell)(News::Targets(targets));
            }
        }
        if self.trouble != trouble {
            self.trouble.clone_from(&trouble);
            if let Some(trouble) = trouble {
                (self.tell)(News::Trouble(trouble));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use seaworthy_config::Labels;

    use super::*;

    fn target(host: &str) -> Target {
        Target { host: host.to_owned(), port: 80, labels: Labels::default() }
    }

    #[test]
    fn what_is_known_already_is_not_told_again() {
        let mut told = Vec::new();
        let mut tell = |news| told.push(news);
        let mut teller = Teller::new(&mut tell);
        teller.asked(None, Some("down".to_owned()));
        teller.asked(None, Some("down".to_owned()));
        teller.asked(Some(vec![target("b"), target("a"), target("b")]), None);
        teller.asked(Some(vec![target("a"), target("b")]), None);
        teller.asked(Some(vec![target("a"), target("b")]), Some("down".to_owned()));
        teller.asked(Some(vec![target("b"), target("a")]), None);
        let both = News::Targets(vec![target("a"), target("b")]);
        let down = News::Trouble("down".to_owned());
        assert_eq!(told, [down.clone(), both.clone(), down, both]);
    }
}
