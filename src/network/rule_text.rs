//! Pure: reads the text of a rule, as `iptables-save` and `iptables -S` write it, into a [`Rule`].
//!
//! It cannot fail: a match or target that is not known is kept as text.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::rule::{
    CERTAIN, Conntrack, Is, Match, Ports, Protocol, Rule, STATES, State, Target, quoted,
};

/// Reads what follows `-A CHAIN`.
pub(super) fn parse(text: &str) -> Rule {
    Parser { words: split_quoted(text), at: 0 }.rule()
}

/// Splits at spaces, but not inside double quotes; the quotes and escapes are taken off.
fn split_quoted(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut inside, mut started, mut escaped) = (false, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if inside => escaped = true,
            '"' => {
                inside = !inside;
                started = true;
            }
            ' ' | '\t' if !inside => {
                if started || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            _ => word.push(c),
        }
    }
    if started || !word.is_empty() {
        words.push(word);
    }
    words
}

struct Parser {
    words: Vec<String>,
    at: usize,
}

impl Parser {
    fn rule(mut self) -> Rule {
        let mut rule = Rule::always(Target::Nothing);
        while self.at < self.words.len() {
            let negated = self.words[self.at] == "!";
            let start = self.at;
            if negated {
                self.at += 1;
            }
            match self.word().as_deref() {
                Some("-m") => {
                    let name = self.word().unwrap_or_default();
                    rule.matches.extend(self.module(&name));
                }
                Some("-j") => rule.target = self.target(),
                Some("-g") => rule.target = Target::Goto(self.word().unwrap_or_default()),
                Some(flag) => {
                    let flag = flag.to_owned();
                    rule.matches.push(self.plain(&flag, negated, start));
                }
                None => {}
            }
        }
        rule
    }

    fn word(&mut self) -> Option<String> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word
    }

    fn plain(&mut self, flag: &str, negated: bool, start: usize) -> Match {
        let value = self.word().unwrap_or_default();
        let known = match flag {
            "-s" => network(&value).map(|net| Match::Source(Is { negated, value: net })),
            "-d" => network(&value).map(|net| Match::Destination(Is { negated, value: net })),
            "-i" => Some(Match::InInterface(Is { negated, value: value.clone() })),
            "-o" => Some(Match::OutInterface(Is { negated, value: value.clone() })),
            "-p" if !negated => Protocol::of_text(&value).map(Match::Protocol),
            _ => None,
        };
        known.unwrap_or_else(|| {
            let end = self.at.min(self.words.len());
            Match::Other(self.words[start..end].join(" "))
        })
    }

    /// The options of one `-m name`, up to the next `-m`, `-j` or `-g`.
    fn module(&mut self, name: &str) -> Option<Match> {
        let start = self.at;
        while self.at < self.words.len()
            && !matches!(self.words[self.at].as_str(), "-m" | "-j" | "-g")
        {
            self.at += 1;
        }
        let options = &self.words[start..self.at];
        if options.is_empty() && Protocol::of_text(name).is_some() {
            // `-m tcp` alone asks nothing that `-p tcp` has not asked.
            return None;
        }
        Some(known_module(name, options).unwrap_or_else(|| {
            let text: Vec<String> = options.iter().map(|word| quoted_option(word)).collect();
            Match::Other(format!("-m {name} {}", text.join(" ")).trim_end().to_owned())
        }))
    }

    fn target(&mut self) -> Target {
        let name = self.word().unwrap_or_default();
        let options: Vec<String> = self.words[self.at.min(self.words.len())..].to_vec();
        self.at = self.words.len();
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        match (name.as_str(), words.as_slice()) {
            ("ACCEPT", []) => Target::Accept,
            ("DROP", []) => Target::Drop,
            ("RETURN", []) => Target::Return,
            ("REJECT", [] | ["--reject-with", "icmp-port-unreachable"]) => Target::Reject,
            ("MASQUERADE", []) => Target::Masquerade { random_fully: false },
            ("MASQUERADE", ["--random-fully"]) => Target::Masquerade { random_fully: true },
            ("DNAT", ["--to-destination", to]) if to.parse::<SocketAddrV4>().is_ok() => {
                Target::Dnat(to.parse().expect("the guard parsed it"))
            }
            ("MARK", ["--set-xmark", mark]) if marked(mark).is_some() => {
                let (value, mask) = marked(mark).expect("the guard parsed it");
                Target::SetMark { value, mask }
            }
            (chain, []) if !chain.is_empty() && !is_builtin_target(chain) => {
                Target::Jump(chain.to_owned())
            }
            (other, words) => Target::Other(format!("{other} {}", words.join(" ")).trim().into()),
        }
    }
}

fn quoted_option(word: &str) -> String {
    if word.starts_with('-') || word == "!" { word.to_owned() } else { quoted(word) }
}

/// Extension targets without options: a bare word that is no chain.
fn is_builtin_target(name: &str) -> bool {
    matches!(name, "LOG" | "QUEUE" | "NFQUEUE" | "TRACE" | "NOTRACK" | "CHECKSUM" | "REDIRECT")
}

fn known_module(name: &str, options: &[String]) -> Option<Match> {
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    let (negated, plain) = match words.split_first() {
        Some((&"!", rest)) => (true, rest),
        _ => (false, words.as_slice()),
    };
    match (name, plain) {
        ("tcp" | "udp", ["--dport", ports]) => Some(Match::DestinationPort(
            Protocol::of_text(name)?,
            Is { negated, value: Ports::parse(ports)? },
        )),
        ("addrtype", ["--dst-type", "LOCAL"]) => {
            Some(Match::DestinationLocal(Is { negated, value: () }))
        }
        ("addrtype", ["--src-type", "LOCAL"]) => {
            Some(Match::SourceLocal(Is { negated, value: () }))
        }
        ("mark", ["--mark", mark]) => Some(Match::Mark(Is { negated, value: marked(mark)? })),
        ("comment", ["--comment", text]) => Some(Match::Comment((*text).to_owned())),
        ("statistic", ["--mode", "random", "--probability", chance]) if !negated => {
            let chance: f64 = chance.parse().ok()?;
            Some(Match::Probability((chance * CERTAIN).round() as u32))
        }
        ("conntrack", _) => conntrack(&words),
        _ => None,
    }
}

fn conntrack(words: &[&str]) -> Option<Match> {
    let mut found = Conntrack::default();
    let mut words = words.iter();
    let mut negated = false;
    while let Some(word) = words.next() {
        if *word == "!" {
            negated = true;
            continue;
        }
        let value = words.next()?;
        match *word {
            "--ctstate" => {
                let states = value
                    .split(',')
                    .map(|word| STATES.iter().find(|(_, name)| *name == word).map(|(s, _)| *s))
                    .collect::<Option<Vec<State>>>()?;
                found.states = Some(Is { negated, value: ordered(states) });
            }
            "--ctorigdst" => {
                found.original_destination = Some(Is { negated, value: network(value)? });
            }
            "--ctorigdstport" => {
                found.original_port = Some(Is { negated, value: Ports::parse(value)? });
            }
            _ => return None,
        }
        negated = false;
    }
    Some(Match::Conntrack(found))
}

/// In the order of `iptables-save`, so that equal sets are equal values.
fn ordered(states: Vec<State>) -> Vec<State> {
    STATES.iter().map(|(state, _)| *state).filter(|state| states.contains(state)).collect()
}

fn network(text: &str) -> Option<Ipv4Net> {
    if text.contains('/') {
        text.parse().ok()
    } else {
        text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from)
    }
}

/// `0x4000/0x4000`, or a bare value under the full mask.
fn marked(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a real `iptables-save` (1.8.9, nf_tables) wrote them.
    const SAVED: [&str; 12] = [
        "-p tcp -m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination 10.1.1.1:80",
        "-s 10.1.1.1/32 -d 10.1.1.1/32 -m conntrack --ctstate DNAT -j MASQUERADE --random-fully",
        "-j MARK --set-xmark 0x4000/0x4000",
        "-m mark ! --mark 0x4000/0x4000 -j RETURN",
        "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m conntrack --ctorigdst 10.43.0.0/16 --ctorigdstport 80 -j ACCEPT",
        "-p udp -m multiport --dports 53,80 -j RETURN",
        "-i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
        "-p tcp -m comment --comment \"default/lb cluster IP\" -m tcp --dport 80 -j KUBE-SVC-7TVX",
        "-m recent --rcheck --name foo --mask 255.255.255.255 --rsource -j RETURN",
        "-p tcp -j REJECT --reject-with tcp-reset",
    ];

    #[test]
    fn what_iptables_saves_is_read_and_written_back() {
        for text in SAVED {
            assert_eq!(Rule::parse(text).to_string(), text);
        }
    }

    #[test]
    fn an_even_choice_is_the_kernels_number() {
        let third = Rule::new(vec![Match::one_of(3)], Target::Accept);
        assert_eq!(Rule::parse(&third.to_string()), third);
        assert!(third.to_string().contains("0.33333333349"));
    }

    #[test]
    fn what_is_not_known_stays_text() {
        let rule = Rule::parse("-m u32 --u32 \"0x0=0x0\" -j RETURN");
        assert_eq!(rule.matches, [Match::Other("-m u32 --u32 \"0x0=0x0\"".into())]);
        assert_eq!(
            Rule::parse("-j LOG --log-prefix x").target,
            Target::Other("LOG --log-prefix x".into())
        );
    }
}
