//! Faults: every call that fails, a chip that faults, one that stands still.

use super::*;

/// Every function that says how it went, but for those that `probes` has.
const CALLS: [&str; 20] = [
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxSetCurrent",
    "cuModuleLoadData",
    "cuModuleGetLoadingMode",
    "cuModuleGetFunction",
    "cuFuncLoad",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuMemHostRegister",
    "cuMemHostGetDevicePointer",
    "cuStreamCreate",
    "cuMemAlloc",
    "cuLaunchKernel",
    "cuMemcpyDtoHAsync",
    "cuStreamSynchronize",
    "cuMemGetInfo",
    "cuMemsetD8Async",
];

#[test]
fn a_call_that_fails_while_opening_is_named_and_nothing_stays_behind() {
    let Some(folder) = driver(&[]) else { return };
    for call in CALLS {
        let told = run(
            "opens",
            &folder,
            &[("ORLOP_FAKE_FAIL", &format!("{call}:46"))],
        );
        told.assert_success(call);
        let said = told.line("refused");
        assert!(
            said.contains(&format!("{call} said CUDA_ERROR_PLANTED (46)")),
            "{said}"
        );
        // The second try found nothing in its way.
        assert!(told.line("chose").starts_with("CUDA device 0, Shim"));
        assert_eq!(
            told.held(),
            [0; 5],
            "after {call}: something was not given back"
        );
    }
}

#[test]
fn a_fault_while_opening_has_the_device_refused_for_good() {
    let Some(folder) = driver(&[]) else { return };
    for call in ["cuMemAlloc", "cuLaunchKernel"] {
        let told = run(
            "opens",
            &folder,
            &[("ORLOP_FAKE_FAIL", &format!("{call}:719"))],
        );
        told.assert_success(call);
        assert!(
            told.line("refused")
                .ends_with("said CUDA_ERROR_LAUNCH_FAILED (719)")
        );
        assert!(told.line("chose").starts_with("host threads, since"));
    }
}

/// The device is lost while work is published to it one by one.
fn lost(variables: &[(&str, &str)], why: &str) -> Option<Told> {
    let folder = driver(&[])?;
    let told = run("is_lost", &folder, variables);
    told.assert_success(why);
    assert_eq!(told.line("refused"), "Lost");
    assert_eq!(told.line("lost"), why);
    Some(told)
}

#[test]
fn a_chip_that_faults_ends_what_is_in_flight_and_is_never_touched_again() {
    let fault = [
        ("ORLOP_FAKE_FAULT", "719:20"),
        ("ORLOP_ROLE_SETTLES", "1"),
        ("ORLOP_ROLE_LINGER", "for ever"),
    ];
    let why = "the chip is lost to this process: \
               cuStreamQuery said CUDA_ERROR_LAUNCH_FAILED (719)";
    let Some(told) = lost(&fault, why) else {
        return;
    };
    // A dead context runs nothing: what was in flight is over at once.
    assert_eq!(told.line("outstanding"), "0");
    // And is asked to take nothing back: the answers of the two questions at the beginning were.
    assert_eq!(told.held(), [1; 5]);
    let given = [
        "call.cuMemFree",
        "call.cuMemHostUnregister",
        "call.cuModuleUnload",
    ];
    assert_eq!(given.map(|call| told.count(call)), [2, 0, 0]);
}

#[test]
fn a_chip_that_stands_still_is_lost_and_what_it_may_write_to_stays_held() {
    let hang = [
        ("ORLOP_FAKE_HANG", "20"),
        ("ORLOP_ROLE_HANG", "300"),
        ("ORLOP_ROLE_LINGER", "for ever"),
    ];
    let Some(told) = lost(&hang, "the device did not answer for 300ms") else {
        return;
    };
    assert_eq!(told.line("outstanding"), "1");
    assert_eq!(told.held(), [1; 5]);
}

#[test]
fn a_kernel_that_cannot_be_launched_again_is_a_device_that_is_lost() {
    let refused = [
        ("ORLOP_FAKE_FAIL", "cuLaunchCooperativeKernel:719:3"),
        ("ORLOP_ROLE_LINGER", "0"),
    ];
    let why = "the chip is lost to this process: \
               cuLaunchCooperativeKernel said CUDA_ERROR_LAUNCH_FAILED (719)";
    lost(&refused, why);
}
