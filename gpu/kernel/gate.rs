//! Gate: the kernel compiled for devices, as `build.py` does it; and the image that is committed.

use std::process::{Command, Output};

use super::compiler::{folder, say};
use super::image::MEGAKERNEL;

fn build(arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("python3");
    let said = command
        .arg(folder().join("build.py"))
        .args(arguments)
        .output();
    if said.is_err() {
        say("skipped: no python3, so the kernel's image was not compared with its sources");
    }
    said.ok()
}

#[test]
fn the_image_is_of_these_sources() {
    let Some(said) = build(&["--same"]) else {
        return;
    };
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{text}");
    // The magic number of a fat binary, which the driver looks at first.
    assert_eq!(MEGAKERNEL.get(..4), Some(&[0x50, 0xed, 0x55, 0xba][..]));
}

#[test]
fn the_machine_code_polls_without_fences_and_calls_nothing() {
    let Some(tools) = std::env::var_os("ORLOP_CUDA_TOOLS") else {
        return say(
            "skipped: ORLOP_CUDA_TOOLS names no folder for CUDA tools, so the kernel was not \
             compiled for a device",
        );
    };
    let tools = tools.to_str().unwrap();
    let Some(said) = build(&["--tools", tools, "--check"]) else {
        return;
    };
    let text = String::from_utf8_lossy(&said.stderr);
    if said.status.code() == Some(3) {
        return say(&format!(
            "skipped: the CUDA tools cannot be installed here: {text}"
        ));
    }
    assert!(said.status.success(), "{text}");
    say(String::from_utf8_lossy(&said.stdout).trim());
}
