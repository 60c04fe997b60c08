//! Work: a device that is there.

use super::*;

fn launches(told: &Told) -> u64 {
    told.line("launches").parse().unwrap()
}

#[test]
fn answers_are_the_hosts_through_hand_overs_in_bursts_and_when_it_stays() {
    let Some(folder) = driver(&[]) else { return };
    for linger in ["0", "3", "for ever"] {
        let told = run("works", &folder, &[("ORLOP_ROLE_LINGER", linger)]);
        told.assert_success(linger);
        assert!(launches(&told) > 1, "no kernel took over");
        assert_eq!(told.held(), [0; 5], "something was not given back");
        say(&format!(
            "launch host over the shim, linger {linger}: {} launches, {} slots fetched",
            launches(&told),
            told.count("fetched")
        ));
    }
}

#[test]
fn a_kernel_that_is_about_to_leave_loses_nothing() {
    let Some(folder) = driver(&[]) else { return };
    let bursts = [("ORLOP_ROLE_LINGER", "0"), ("ORLOP_ROLE_LAUNCHES", "20")];
    let told = run("bursts", &folder, &bursts);
    told.assert_success("bursts");
    assert_eq!(told.held(), [0; 5]);
}

#[test]
fn a_kernel_that_stays_is_launched_once() {
    let Some(folder) = driver(&[]) else { return };
    let stays = [
        ("ORLOP_ROLE_LINGER", "for ever"),
        ("ORLOP_ROLE_LAUNCHES", "1"),
    ];
    let told = run("bursts", &folder, &stays);
    told.assert_success("bursts");
    // Launched by the first order; stopping it needs no launch.
    assert_eq!(launches(&told), 1);
    assert_eq!(told.held(), [0; 5]);
}

#[test]
fn a_kernel_that_would_stay_leaves_when_the_device_is_to_be_quiet() {
    let Some(folder) = driver(&[]) else { return };
    let told = run("quiesces", &folder, &[("ORLOP_ROLE_LINGER", "for ever")]);
    told.assert_success("quiesces");
    assert_eq!(told.line("launches"), "1 2");
    assert_eq!(told.held(), [0; 5]);
}
