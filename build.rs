//! Builds the sandbox's init (`pause/pause.rs`) into a static binary that `node/image.rs` embeds.
use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=pause/pause.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pause");
    let linker = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,-n,--build-id=none,-z,norelro,-z,noseparate-code,--no-eh-frame-hdr",
    ];
    let status = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"))
        .args(["--edition=2024", "--crate-type=bin", "--crate-name=pause"])
        .args(["--target", &env::var("TARGET").expect("cargo sets TARGET")])
        .args(["-Cpanic=abort", "-Copt-level=z", "-Clto=fat", "-Ccodegen-units=1"])
        .args(["-Cstrip=symbols", "-Crelocation-model=static", "-Ctarget-feature=+crt-static"])
        .args(linker.map(|argument| format!("-Clink-arg={argument}")))
        .args(["pause/pause.rs", "-o"])
        .arg(&out)
        // Flags meant for the daemon (coverage, sanitizers) have no place in a program without libc.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .expect("rustc starts");
    assert!(status.success(), "pause/pause.rs does not build; see rustc's message above");
}
