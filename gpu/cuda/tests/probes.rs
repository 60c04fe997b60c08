//! Probes: what is said of a machine that has no device that will do.

use super::*;

/// What the driver is told, and what is said of it.
const REFUSED: [(&[(&str, &str)], &str); 12] = [
    (
        &[("ORLOP_FAKE_VERSION", "12080")],
        "the driver is of CUDA 12.8, 13.0 is needed: install 580 or newer",
    ),
    (
        &[("ORLOP_FAKE_DEVICES", "0")],
        "the CUDA driver has no device: look at nvidia-smi and CUDA_VISIBLE_DEVICES",
    ),
    (
        &[("ORLOP_ROLE_ORDINAL", "5")],
        "CUDA device 5 was asked for, the driver has 1",
    ),
    (
        &[("ORLOP_FAKE_CAPABILITY", "75")],
        "Shim has compute capability 7.5, 8.0 is needed",
    ),
    (
        &[("ORLOP_FAKE_COOPERATIVE", "0")],
        "Shim has no cooperative launch",
    ),
    (
        &[("CUDA_LAUNCH_BLOCKING", "1")],
        "CUDA_LAUNCH_BLOCKING is set: a kernel that stays would never be launched; unset it",
    ),
    (
        &[("ORLOP_FAKE_LAZY", "1"), ("ORLOP_ROLE_LINGER", "for ever")],
        "CUDA loads functions lazily, and waits for a kernel that stays: set \
         CUDA_MODULE_LOADING=EAGER, or let the kernel linger less",
    ),
    (
        &[("ORLOP_ROLE_WORKERS", "9")],
        "9 workers were asked for, the device holds 8 at a time",
    ),
    (
        &[("ORLOP_FAKE_FAIL", "cuInit:803")],
        "cuInit said CUDA_ERROR_PLANTED (803)",
    ),
    (
        &[("ORLOP_FAKE_FAIL", "cuDeviceGetCount:999")],
        "cuDeviceGetCount said unknown (999)",
    ),
    (
        &[("ORLOP_FAKE_FREE", "4096")],
        " bytes of device memory are needed, 4096 are free",
    ),
    (
        &[("ORLOP_FAKE_FAIL", "cuMemHostRegister:2")],
        " bytes of host memory could not be pinned: cuMemHostRegister said CUDA_ERROR_PLANTED (2)",
    ),
];

#[test]
fn whatever_a_machine_lacks_is_told_and_auto_runs_on_what_there_is() {
    let Some(folder) = driver(&[]) else { return };
    for (variables, expected) in REFUSED {
        let told = run("opens", &folder, variables);
        told.assert_success(expected);
        let said = told.line("refused");
        assert!(said.ends_with(expected), "{said}, {expected} was expected");
        // What is planted once does not come a second time.
        if variables[0].0 != "ORLOP_FAKE_FAIL" {
            assert_eq!(told.line("chose"), format!("host threads, since {said}"));
        }
        assert_eq!(
            told.held(),
            [0; 5],
            "{expected}: something was not given back"
        );
    }
}

#[test]
fn a_driver_that_lacks_a_function_is_an_error_and_no_panic() {
    let Some(folder) = driver(&["-DORLOP_FAKE_LACKS_LAUNCH"]) else {
        return;
    };
    let told = run("opens", &folder, &[]);
    told.assert_success("a function is missing");
    let said = "the CUDA driver lacks cuLaunchCooperativeKernel: 580 or newer is needed";
    assert_eq!(told.line("refused"), said);
    assert_eq!(told.line("chose"), format!("host threads, since {said}"));
    assert_eq!(
        told.count("call.cuInit"),
        0,
        "something was called all the same"
    );
}

#[test]
fn the_device_that_is_chosen_is_named() {
    let Some(folder) = driver(&[]) else { return };
    let told = run("opens", &folder, &[("ORLOP_FAKE_DEVICES", "2")]);
    told.assert_success("two devices");
    let named = "CUDA device 0, Shim: sm_90, 8 multiprocessors, 1073741824 bytes, \
                 driver of CUDA 13.0; one of 2";
    assert_eq!(told.line("opened"), named);
    assert_eq!(told.line("chose"), named);
    assert_eq!(told.held(), [0; 5]);
}

#[test]
fn without_a_driver_there_are_host_threads_and_the_reason() {
    let nowhere = std::env::current_exe()
        .unwrap()
        .with_file_name("orlop-no-driver");
    std::fs::create_dir_all(&nowhere).unwrap();
    let told = run("opens", &nowhere, &[]);
    told.assert_success("no driver");
    let text = String::from_utf8_lossy(&told.output.stdout).into_owned();
    if text.contains("opened: ") || !text.contains("libcuda.so.1") {
        return say("skipped: this machine has a CUDA driver, so its absence was not tried");
    }
    let said = "no CUDA driver was found: libcuda.so.1 is not on the loader's path";
    assert_eq!(told.line("refused"), said);
    assert_eq!(told.line("chose"), format!("host threads, since {said}"));
}
