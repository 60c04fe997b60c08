//! Figures: one measured number, what it is measured against, and whether it is good enough.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// One figure. The fields are those of the JSON, in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What targets refer to it by.
    pub(crate) id: Cow<'static, str>,
    /// The suite that measured it.
    pub(crate) suite: Cow<'static, str>,
    /// What it is, for a person.
    pub(crate) name: Cow<'static, str>,
    /// The number.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: Cow<'static, str>,
    /// What it is measured against.
    pub(crate) reference: Cow<'static, str>,
    /// The number of what it is measured against, in the same unit.
    pub(crate) reference_value: f64,
    /// Value over reference.
    pub(crate) ratio: f64,
    /// What it must be, in words; none if it only informs.
    pub(crate) target: Option<String>,
    /// Whether it is; none where there is no target.
    pub(crate) met: Option<bool>,
    /// How many samples the number rests on.
    pub(crate) samples: u64,
    /// Of how many runs it is the median.
    pub(crate) median_of: u32,
}

/// What a figure is and what it was measured to be.
pub(crate) struct Measured {
    pub(crate) id: &'static str,
    pub(crate) suite: &'static str,
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) samples: u64,
    pub(crate) median_of: u32,
}

impl Figure {
    /// A figure that must be below a limit.
    pub(crate) fn below(measured: &Measured, limit: f64) -> Self {
        let target = format!("below {limit} {}", measured.unit);
        let met = measured.value < limit;
        Self::beside(measured, "limit", limit, Some((target, met)))
    }

    /// A figure beside what it is compared to, with its target and whether that is met.
    pub(crate) fn beside(
        measured: &Measured,
        reference: &'static str,
        reference_value: f64,
        target: Option<(String, bool)>,
    ) -> Self {
        let &Measured {
            id,
            suite,
            name,
            value,
            unit,
            samples,
            median_of,
        } = measured;
        let (target, met) = target.unzip();
        Self {
            id: id.into(),
            suite: suite.into(),
            name: name.into(),
            value,
            unit: unit.into(),
            reference: reference.into(),
            reference_value,
            ratio: value / reference_value,
            target,
            met,
            samples,
            median_of,
        }
    }

    /// Whether it has a target that it does not meet.
    pub(crate) fn is_missed(&self) -> bool {
        self.met == Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64) -> Figure {
        let measured = Measured {
            id: "a.b",
            suite: "a",
            name: "b",
            value,
            unit: "%",
            samples: 1,
            median_of: 1,
        };
        Figure::below(&measured, 2.0)
    }

    #[test]
    fn a_value_at_its_limit_is_missed_and_one_below_is_met() {
        assert!(figure(2.0).is_missed());
        assert!(figure(2.5).is_missed());
        assert_eq!(figure(1.0).met, Some(true));
        assert!((figure(1.0).ratio - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn the_json_has_exactly_the_fields_that_readers_of_figures_expect() {
        let json = serde_json::to_value(figure(1.0)).unwrap();
        let mut fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        fields.sort_unstable();
        let mut expected = [
            "id",
            "suite",
            "name",
            "value",
            "unit",
            "reference",
            "reference_value",
            "ratio",
            "target",
            "met",
            "samples",
            "median_of",
        ];
        expected.sort_unstable();
        assert_eq!(fields, expected);
    }
}
