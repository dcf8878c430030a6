//! The number of the last change of the kernel's nf_tables, asked by one netlink message. Every change of
//! any table by any program counts it up, and reading counts nothing: while it stays the same, rules that
//! were looked at are as they were. A question costs 20 µs, a run of `iptables-save` 4 ms.
//!
//! The message is `NFT_MSG_GETGEN` of linux/netfilter/nf_tables.h, in kernels since 3.18.

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, sendto, socket_with};

const REQUEST: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES` in the upper byte.
const NEW_GENERATION: u16 = 10 << 8 | 15;
const GET_GENERATION: u16 = 10 << 8 | 16;
/// `NFTA_GEN_ID`
const ID: u16 = 1;
/// Of a netlink message, and of netfilter's part of it.
const HEADER: usize = 16;
const FAMILY: usize = 4;

/// `None`: this kernel has no nf_tables, or we may not ask.
pub fn generation() -> Option<u32> {
    ask().ok().and_then(|answer| read(&answer))
}

fn ask() -> Result<Vec<u8>, Errno> {
    let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(NETFILTER))?;
    sendto(&socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = vec![0; 4096];
    // The kernel has answered when the question is sent: nothing is waited for.
    let (length, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
    answer.truncate(length);
    Ok(answer)
}

fn request() -> [u8; HEADER + FAMILY] {
    let mut message = [0; HEADER + FAMILY];
    message[..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    message
}

/// `None` for an error, and for what is no such answer.
fn read(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != NEW_GENERATION {
        return None;
    }
    let mut rest = answer.get(HEADER + FAMILY..)?;
    while let (Some(length), Some(name)) = (rest.get(..2), rest.get(2..4)) {
        let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
        if u16::from_ne_bytes(name.try_into().ok()?) == ID {
            return rest.get(4..8)?.try_into().ok().map(u32::from_be_bytes);
        }
        // Each begins at a multiple of four; none is shorter than its own head.
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Linux 6.18 answered: generation 45, by process 11163, `python3`.
    fn answer() -> Vec<u8> {
        let mut answer = vec![48, 0, 0, 0];
        answer.extend(NEW_GENERATION.to_ne_bytes());
        answer.extend([0; 10]);
        answer.extend([0, 0, 0, 0x2d]);
        for (length, name, value) in
            [(8_u16, ID, &[0, 0, 0, 0x2d][..]), (8, 2, &[0, 0, 0x2b, 0x9b]), (12, 3, b"python3\0")]
        {
            answer.extend(length.to_ne_bytes());
            answer.extend(name.to_ne_bytes());
            answer.extend(value);
        }
        answer
    }

    #[test]
    fn the_number_is_found_among_the_attributes() {
        let whole = answer();
        assert_eq!(read(&whole), Some(45));
        let moved = [&whole[..20], &whole[28..], &whole[20..28]].concat();
        assert_eq!(read(&moved), Some(45));
        assert_eq!(read(&whole[..26]), None);
        let mut error = whole.clone();
        error[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(read(&error), None);
    }

    proptest! {
        #[test]
        fn no_answer_hangs_or_panics(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            read(&noise);
            read(&[&answer()[..20], &noise].concat());
        }
    }
}
