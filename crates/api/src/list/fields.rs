//! Field selectors, `state=ready,node!=a`, and the fields that each kind of object has for them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    contents::ContentView,
    images::ImageView,
    object_view::{NamespaceView, PolicyView, TenantView, TierView},
    view::{AppView, InstanceView, NodeView, ServiceView},
    volumes::VolumeView,
};
use hivemind_core::model::Event;

/// What lists are made of.
pub(crate) trait Listed: Serialize + ToSchema {
    /// Several of them, for messages: `apps`.
    const NAME: &'static str;
    /// The fields that a field selector may name.
    const FIELDS: &'static [&'static str];
    /// Whether they have labels.
    const LABELS: bool;
    /// The value of one of [`Listed::FIELDS`]; empty if it has none.
    fn field(&self, name: &str) -> String;
}

/// Conditions on fields; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Reads `field=value`, `field==value` and `field!=value` with commas between them; the empty text is all.
    /// Fails with every fault of the text.
    pub(crate) fn parse<T: Listed>(text: &str) -> Result<Self, Vec<String>> {
        let (mut conditions, mut faults) = (Vec::new(), Vec::new());
        for part in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let Some(condition) = Condition::parse(part) else {
                faults.push(format!("{part:?} says nothing about a field; write field=value or field!=value"));
                continue;
            };
            if T::FIELDS.contains(&condition.field.as_str()) {
                conditions.push(condition);
            } else {
                faults.push(format!(
                    "{} have no field {:?}; known: {}",
                    T::NAME,
                    condition.field,
                    T::FIELDS.join(", ")
                ));
            }
        }
        if faults.is_empty() { Ok(Self(conditions)) } else { Err(faults) }
    }

    /// Whether it is so.
    pub(crate) fn matches(&self, item: &impl Listed) -> bool {
        self.0.iter().all(|condition| (item.field(&condition.field) == condition.value) == condition.equal)
    }
}

impl Condition {
    fn parse(text: &str) -> Option<Self> {
        let (field, equal, value) = match text.split_once("!=") {
            Some((field, value)) => (field, false, value),
            None => {
                let (field, value) = text.split_once("==").or_else(|| text.split_once('='))?;
                (field, true, value)
            }
        };
        Some(Self { field: field.trim().to_owned(), equal, value: value.trim().to_owned() })
    }
}

/// `match`es the field's name, and says which there are.
macro_rules! listed {
    ($view:ty, $name:literal, $labels:literal, |$item:ident| { $($field:literal => $value:expr,)* }) => {
        impl Listed for $view {
            const NAME: &'static str = $name;
            const FIELDS: &'static [&'static str] = &[$($field),*];
            const LABELS: bool = $labels;
            fn field(&self, name: &str) -> String {
                let $item = self;
                match name {
                    $($field => $value.to_string(),)*
                    _ => String::new(),
                }
            }
        }
    };
}

listed!(AppView, "apps", true, |app| {
    "name" => app.name,
    "namespace" => app.namespace,
    "tenant" => app.tenant,
    "state" => app.state,
    "image" => app.spec.image,
});

listed!(InstanceView, "instances", true, |instance| {
    "name" => instance.name,
    "id" => instance.id,
    "namespace" => instance.namespace,
    "tenant" => instance.tenant,
    "app" => instance.app,
    "node" => instance.node,
    "phase" => instance.phase,
    "image" => instance.image,
    "code" => instance.code.map(|code| code.as_str()).unwrap_or_default(),
});

listed!(ServiceView, "services", true, |service| {
    "name" => service.name,
    "namespace" => service.namespace,
    "tenant" => service.tenant,
    "app" => service.app,
});

listed!(VolumeView, "volumes", true, |volume| {
    "name" => volume.name,
    "id" => volume.id,
    "namespace" => volume.namespace,
    "tenant" => volume.tenant,
    "used" => !volume.used_by.is_empty(),
    "deleting" => volume.deleting,
});

listed!(ContentView, "secrets and configs", true, |content| {
    "name" => content.name,
    "namespace" => content.namespace,
    "tenant" => content.tenant,
    "used" => !content.used_by.is_empty(),
});

listed!(PolicyView, "policies", false, |policy| {
    "name" => policy.name,
    "namespace" => policy.namespace,
    "tenant" => policy.tenant,
    "audit" => policy.spec.audit,
});

listed!(TierView, "policies of tiers", false, |policy| {
    "name" => policy.name,
    "tenant" => policy.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
    "audit" => policy.spec.audit,
});

listed!(NamespaceView, "namespaces", true, |namespace| {
    "name" => namespace.name,
    "tenant" => namespace.tenant,
});

listed!(TenantView, "tenants", false, |tenant| {
    "name" => tenant.name,
});

listed!(NodeView, "nodes", false, |node| {
    "name" => node.node.name,
    "ready" => node.status.ready,
});

listed!(ImageView, "images", true, |image| {
    "name" => image.name,
    "digest" => image.digest,
    "platform" => image.platform.as_deref().unwrap_or_default(),
    "used" => !image.used_by.is_empty(),
});

listed!(Event, "events", false, |event| {
    "kind" => match event.kind {
        hivemind_core::model::EventKind::Normal => "normal",
        hivemind_core::model::EventKind::Warning => "warning",
    },
    "reason" => event.reason,
    "object" => event.object,
    "tenant" => event.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
    "namespace" => event.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
    "app" => event.app.as_ref().map(ToString::to_string).unwrap_or_default(),
});

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantView {
        TenantView::new(&name.parse().expect("a name"), None)
    }

    #[test]
    fn conditions_on_fields_all_hold() {
        for (text, expected) in [
            ("", true),
            ("name=acme", true),
            ("name==acme", true),
            (" name = acme ", true),
            ("name=other", false),
            ("name!=other", true),
            ("name!=acme", false),
            ("name!=a,name!=b", true),
            ("name!=a,name!=acme", false),
            ("name=", false),
        ] {
            let selector =
                FieldSelector::parse::<TenantView>(text).unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
            assert_eq!(selector.matches(&tenant("acme")), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_named_with_what_is() {
        for (text, expected) in [
            ("color=red", vec!["tenants have no field \"color\"; known: name"]),
            ("name", vec!["\"name\" says nothing about a field; write field=value or field!=value"]),
            ("a=b,,name=c,d", vec!["tenants have no field \"a\"; known: name", "\"\" says", "\"d\" says"]),
        ] {
            let faults = FieldSelector::parse::<TenantView>(text).expect_err(text);
            assert_eq!(faults.len(), expected.len(), "{faults:?}");
            assert!(faults.iter().zip(&expected).all(|(fault, begin)| fault.starts_with(begin)), "{faults:?}");
        }
    }
}
