//! Pure: one iptables rule as a value, with the text that `iptables-save` writes for it.
//!
//! Everything Ballast writes is made of the matches and targets named here. Rules of others are
//! read with the same parser; what it does not know is kept as [`Match::Other`] or
//! [`Target::Other`], so that a foreign rule is shown and compared, but never guessed at.
//!
//! The order of matches is part of the value: `iptables-save` keeps it, with source, destination,
//! interfaces and protocol in front. Rules have no comments: no text of a user's reaches the kernel.

use std::fmt;
use std::net::SocketAddrV4;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::rule_text;

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

    pub(super) fn parse(text: &str) -> Option<Self> {
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

pub(super) const STATES: [(State, &str); 7] = [
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
pub(super) const CERTAIN: f64 = 2_147_483_648.0;

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
        rule_text::parse(text)
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
pub(super) fn quoted(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-.,:/".contains(c);
    if !text.is_empty() && text.chars().all(harmless) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
