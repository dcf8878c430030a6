//! Pure: one iptables rule as a value, with the text that `iptables-save` writes for it.
//!
//! Everything Ballast writes is made of the matches and targets named here. Rules of others are
//! read with the same parser; what it does not know is kept as [`Match::Other`] or
//! [`Target::Other`], so that a foreign rule is shown and compared, but never guessed at.
//!
//! The order of matches is part of the value: `iptables-save` keeps it, with source, destination,
//! interfaces and protocol in front. Rules have no comments: no text of a user's reaches the kernel.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use serde::Serialize;

/// The two tables that Ballast writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    Nat,
    Filter,
}

impl Table {
    pub const ALL: [Table; 2] = [Table::Nat, Table::Filter];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A chain's place: `nat/BALLAST-SERVICES`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ChainId {
    pub table: Table,
    pub name: String,
}

impl ChainId {
    pub fn new(table: Table, name: impl Into<String>) -> Self {
        Self { table, name: name.into() }
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table, self.name)
    }
}

/// The protocols that Services have here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Of a Service port or an EndpointSlice port; absent is TCP. `None` is a protocol not served.
    pub fn of_kubernetes(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }

    /// Of a rule or a command line.
    pub fn of_text(text: &str) -> Option<Self> {
        match text {
            "tcp" | "TCP" | "6" => Some(Self::Tcp),
            "udp" | "UDP" | "17" => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An inclusive range of ports; a single port is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some((first, last)) => {
                Some(Self { first: first.parse().ok()?, last: last.parse().ok()? })
            }
            None => text.parse().ok().map(Self::one),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// A value that a rule may ask for or, negated with `!`, ask against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Is<T> {
    pub negated: bool,
    pub value: T,
}

impl<T> Is<T> {
    pub fn yes(value: T) -> Self {
        Self { negated: false, value }
    }

    pub fn not(value: T) -> Self {
        Self { negated: true, value }
    }

    fn sign(&self) -> &'static str {
        if self.negated { "! " } else { "" }
    }
}

/// The words of `--ctstate`. The list in a rule is an *or*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Invalid,
    New,
    Related,
    Established,
    Untracked,
    Snat,
    Dnat,
}

const STATES: [(State, &str); 7] = [
    (State::Invalid, "INVALID"),
    (State::New, "NEW"),
    (State::Related, "RELATED"),
    (State::Established, "ESTABLISHED"),
    (State::Untracked, "UNTRACKED"),
    (State::Snat, "SNAT"),
    (State::Dnat, "DNAT"),
];

/// `-m conntrack`: what is given must hold, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Conntrack {
    pub states: Option<Is<Vec<State>>>,
    /// The destination before translation.
    pub original_destination: Option<Is<Ipv4Net>>,
    pub original_port: Option<Is<Ports>>,
}

impl Conntrack {
    pub fn state(state: State) -> Self {
        Self { states: Some(Is::yes(vec![state])), ..Self::default() }
    }
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    Source(Is<Ipv4Net>),
    Destination(Is<Ipv4Net>),
    InInterface(Is<String>),
    OutInterface(Is<String>),
    Protocol(Protocol),
    DestinationPort(Protocol, Is<Ports>),
    /// The destination is an address of this host (`addrtype --dst-type LOCAL`).
    DestinationLocal(Is<()>),
    /// The source is an address of this host.
    SourceLocal(Is<()>),
    Conntrack(Conntrack),
    /// `value` under `mask`.
    Mark(Is<(u32, u32)>),
    /// In units of 2^-31, as the kernel keeps it.
    Probability(u32),
    Comment(String),
    /// A match that is not read here, as `iptables-save` wrote it.
    Other(String),
}

/// What happens to a packet that every match of the rule lets in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// No `-j`: the rule counts and goes on.
    Nothing,
    Accept,
    Drop,
    Return,
    /// With `icmp-port-unreachable`.
    Reject,
    Masquerade {
        random_fully: bool,
    },
    Dnat(SocketAddrV4),
    /// `--set-xmark value/mask`: the bits of the mask are cleared, then the value is xored in.
    SetMark {
        value: u32,
        mask: u32,
    },
    Jump(String),
    /// `-g`: as a jump, but a return goes to the caller's caller.
    Goto(String),
    /// A target that is not read here, with its options.
    Other(String),
}

/// A rule of some chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub target: Target,
}

/// 2^31: probability one.
const CERTAIN: f64 = 2_147_483_648.0;

impl Match {
    /// The probability with which an even choice among `remaining` takes the first.
    pub fn one_of(remaining: usize) -> Self {
        // iptables rounds the same way (`lround(0x80000000 * probability)`).
        Self::Probability((CERTAIN / remaining as f64).round() as u32)
    }

    /// Between 0 and 1; 1 for every other match.
    pub fn probability(&self) -> f64 {
        match self {
            Self::Probability(units) => f64::from(*units) / CERTAIN,
            _ => 1.0,
        }
    }
}

impl Rule {
    pub fn new(matches: Vec<Match>, target: Target) -> Self {
        Self { matches, target }
    }

    /// A rule without conditions.
    pub fn always(target: Target) -> Self {
        Self { matches: Vec::new(), target }
    }

    /// The chain that this rule hands packets to.
    pub fn next_chain(&self) -> Option<&str> {
        match &self.target {
            Target::Jump(chain) | Target::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// Reads what follows `-A CHAIN` in the output of `iptables-save`. Packet counters in front
    /// must be cut off before. It cannot fail: what is not understood is kept as text.
    pub fn parse(text: &str) -> Self {
        Parser { words: split_quoted(text), at: 0 }.rule()
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(net) => write!(f, "{}-s {}", net.sign(), net.value),
            Self::Destination(net) => write!(f, "{}-d {}", net.sign(), net.value),
            Self::InInterface(name) => write!(f, "{}-i {}", name.sign(), name.value),
            Self::OutInterface(name) => write!(f, "{}-o {}", name.sign(), name.value),
            Self::Protocol(protocol) => write!(f, "-p {protocol}"),
            Self::DestinationPort(protocol, ports) => {
                write!(f, "-m {protocol} {}--dport {}", ports.sign(), ports.value)
            }
            Self::DestinationLocal(is) => write!(f, "-m addrtype {}--dst-type LOCAL", is.sign()),
            Self::SourceLocal(is) => write!(f, "-m addrtype {}--src-type LOCAL", is.sign()),
            Self::Conntrack(conntrack) => write!(f, "{conntrack}"),
            Self::Mark(is) => match is.value {
                (value, u32::MAX) => write!(f, "-m mark {}--mark 0x{value:x}", is.sign()),
                (value, mask) => write!(f, "-m mark {}--mark 0x{value:x}/0x{mask:x}", is.sign()),
            },
            Self::Probability(_) => {
                write!(f, "-m statistic --mode random --probability {:.11}", self.probability())
            }
            Self::Comment(text) => write!(f, "-m comment --comment {}", quoted(text)),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Conntrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("-m conntrack")?;
        if let Some(states) = &self.states {
            let words: Vec<&str> = STATES
                .iter()
                .filter(|(state, _)| states.value.contains(state))
                .map(|(_, word)| *word)
                .collect();
            write!(f, " {}--ctstate {}", states.sign(), words.join(","))?;
        }
        if let Some(net) = &self.original_destination {
            write!(f, " {}--ctorigdst {}", net.sign(), net.value)?;
        }
        if let Some(ports) = &self.original_port {
            write!(f, " {}--ctorigdstport {}", ports.sign(), ports.value)?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Drop => f.write_str("-j DROP"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Reject => f.write_str("-j REJECT --reject-with icmp-port-unreachable"),
            Self::Masquerade { random_fully: true } => f.write_str("-j MASQUERADE --random-fully"),
            Self::Masquerade { random_fully: false } => f.write_str("-j MASQUERADE"),
            Self::Dnat(to) => write!(f, "-j DNAT --to-destination {to}"),
            Self::SetMark { value, mask } => {
                write!(f, "-j MARK --set-xmark 0x{value:x}/0x{mask:x}")
            }
            Self::Jump(chain) => write!(f, "-j {chain}"),
            Self::Goto(chain) => write!(f, "-g {chain}"),
            Self::Other(text) => write!(f, "-j {text}"),
        }
    }
}

/// What follows `-A CHAIN`, as `iptables-save` writes it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, condition) in self.matches.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{condition}")?;
        }
        if !self.matches.is_empty() && self.target != Target::Nothing {
            f.write_str(" ")?;
        }
        write!(f, "{}", self.target)
    }
}

/// As `xtables_save_string` quotes: bare where every byte is harmless.
fn quoted(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-.,:/".contains(c);
    if !text.is_empty() && text.chars().all(harmless) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
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
