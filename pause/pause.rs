// The init of a pod's sandbox: keeps the pod's namespaces open, reaps orphans, exits on SIGTERM or
// SIGINT. Built by build.rs for the host's target, static, without libc or an interpreter: under
// one kilobyte, so that it is embedded in the daemon and no registry is needed to start a pod.
#![no_std]
#![no_main]
use core::arch::{asm, global_asm};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use super::*;
    global_asm!(
        ".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {main}", "ud2",
        main = sym super::run
    );
    pub const PROCMASK: usize = 14;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT: usize = 231;
    pub unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
        let result: isize;
        unsafe {
            asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b,
                in("rdx") c, in("r10") d, out("rcx") _, out("r11") _, options(nostack))
        };
        result
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use super::*;
    global_asm!(
        ".globl _start", "_start:", "mov x29, xzr", "bl {main}", "brk 1",
        main = sym super::run
    );
    pub const PROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT: usize = 94;
    pub unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
        let result: isize;
        unsafe {
            asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b,
                in("x2") c, in("x3") d, options(nostack))
        };
        result
    }
}
use arch::*;

const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: isize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;

// Process 1 ignores a signal without a handler, so the three are blocked and waited for instead.
extern "C" fn run() -> ! {
    let set: u64 = (1 << (SIGINT - 1)) | (1 << (SIGTERM - 1)) | (1 << (SIGCHLD - 1));
    unsafe {
        syscall(PROCMASK, SIG_BLOCK, &raw const set as usize, 0, 8);
        loop {
            match syscall(SIGTIMEDWAIT, &raw const set as usize, 0, 0, 8) {
                SIGINT | SIGTERM => {
                    syscall(EXIT, 0, 0, 0, 0);
                }
                _ => while syscall(WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {},
            }
        }
    }
}
