//! Pure: label and field selectors, from an object's spec or from a request's query.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// One requirement on one label or field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    In(String, Vec<String>),
    /// Also true where the key is absent, as in Kubernetes.
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
    /// Integers; false where either side is none.
    Greater(String, i64),
    Less(String, i64),
}

/// All requirements must hold; none at all selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

impl Requirement {
    fn matches<'a>(&self, value_of: &impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::In(key, values) => {
                value_of(key).is_some_and(|value| values.iter().any(|wanted| wanted == value))
            }
            Self::NotIn(key, values) => {
                value_of(key).is_none_or(|value| values.iter().all(|refused| refused != value))
            }
            Self::Exists(key) => value_of(key).is_some(),
            Self::DoesNotExist(key) => value_of(key).is_none(),
            Self::Greater(key, bound) => value_of(key)
                .and_then(|value| value.parse::<i64>().ok())
                .is_some_and(|value| value > *bound),
            Self::Less(key, bound) => value_of(key)
                .and_then(|value| value.parse::<i64>().ok())
                .is_some_and(|value| value < *bound),
        }
    }
}

impl Selector {
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_by(&|key| labels.get(key).map(String::as_str))
    }

    pub fn matches_optional(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_by(&|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
    }

    pub fn matches_by<'a>(&self, value_of: &impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(value_of))
    }

    /// `matchLabels` of a Service or a nodeSelector.
    pub fn of_map(map: &BTreeMap<String, String>) -> Self {
        Self {
            requirements: map
                .iter()
                .map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]))
                .collect(),
        }
    }

    /// # Errors
    /// An operator that is none (admission refuses it before this is called).
    pub fn of_label_selector(selector: &LabelSelector) -> Result<Self, String> {
        let mut all = Self::of_map(selector.match_labels.as_ref().unwrap_or(&BTreeMap::new()));
        for expression in selector.match_expressions.iter().flatten() {
            let (key, values) =
                (expression.key.clone(), expression.values.clone().unwrap_or_default());
            all.requirements.push(match expression.operator.as_str() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_match_not_in_only() {
        let selector = |requirement| Selector { requirements: vec![requirement] };
        let none = BTreeMap::new();
        assert!(selector(Requirement::NotIn("a".into(), vec!["1".into()])).matches(&none));
        assert!(!selector(Requirement::In("a".into(), vec!["1".into()])).matches(&none));
        assert!(selector(Requirement::DoesNotExist("a".into())).matches(&none));
        assert!(Selector::default().matches(&none));
    }
}
