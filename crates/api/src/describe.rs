//! What the description says of every operation alike: how it refuses, and in which form.
//!
//! All refusals are made in one place ([`super::problem`]), so they are described in one place.

use utoipa::openapi::{
    Content, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
    path::{Operation, PathItem},
    schema::{Schema, Type},
};

/// The media type of refusals, RFC 9457.
pub(super) const PROBLEM: &str = "application/problem+json";

/// The statuses of refusals.
const REFUSALS: [(&str, &str); 2] = [
    ("4XX", "Refused; nothing was done. `code` says why, and is stable"),
    (
        "5XX",
        "A fault of the daemon's, or of what it depends on: the kernel, containerd, a registry, a disk. `code` says which",
    ),
];

/// Describes the refusals of every operation, and what of them is on the wire besides the model's own fields.
pub(super) fn refusals(document: &mut OpenApi) {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        let responses = &mut operation.responses.responses;
        responses.extend(REFUSALS.map(|(class, says)| (class.to_owned(), RefOr::T(refusal(says)))));
    }
    let schemas = &mut document.components.get_or_insert_default().schemas;
    if let Some(RefOr::T(Schema::Object(problem))) = schemas.get_mut("Problem") {
        let field = |kind, says: &str| -> RefOr<Schema> {
            ObjectBuilder::new().schema_type(kind).description(Some(says)).build().into()
        };
        problem.properties.insert("status".into(), field(Type::Integer, "The status of the answer"));
        problem.properties.insert("type".into(), field(Type::String, "`urn:hivemind:` and the code"));
    }
}

/// The operations of a path that there may be.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, .. } = item;
    [get, put, post, delete].into_iter().flatten()
}

fn refusal(says: &str) -> Response {
    let schema = Ref::from_schema_name("Problem");
    ResponseBuilder::new().description(says).content(PROBLEM, Content::new(Some(schema))).build()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{self as api};
    use hivemind_core::model;

    #[test]
    fn every_operation_may_refuse_with_a_problem() {
        let document = serde_json::to_value(api::openapi()).expect("is JSON");
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                for class in ["4XX", "5XX"] {
                    let content = operation["responses"][class]["content"].as_object().expect(path);
                    let kinds: Vec<_> = content.keys().collect();
                    assert_eq!(kinds, ["application/problem+json"], "{method} {path} {class}");
                    assert_eq!(content[kinds[0]]["schema"], json!({"$ref": "#/components/schemas/Problem"}));
                }
            }
        }
    }

    #[test]
    fn parameters_are_where_they_are_read() {
        let document = serde_json::to_value(api::openapi()).expect("is JSON");
        for (path, methods) in document["paths"].as_object().expect("paths") {
            let parts = path.split(['{', '}']).skip(1).step_by(2).collect::<Vec<_>>();
            for (method, operation) in methods.as_object().expect("methods") {
                let all = operation["parameters"].as_array().into_iter().flatten();
                let of_path = all.filter(|one| one["in"] == "path").map(|one| one["name"].as_str().expect("a name"));
                assert_eq!(of_path.collect::<Vec<_>>(), parts, "{method} {path}");
            }
        }
    }

    #[test]
    fn a_word_that_two_things_are_called_by_is_one_thing_in_the_description() {
        let document = serde_json::to_value(api::openapi()).expect("is JSON");
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["Operator"]["enum"], json!(["In", "NotIn", "Exists", "DoesNotExist"]));
        assert_eq!(schemas["OperatorConnection"]["required"], json!(["from", "port"]));
    }

    #[test]
    fn what_a_problem_has_on_the_wire_is_described() {
        let document = serde_json::to_value(api::openapi()).expect("is JSON");
        let schema = &document["components"]["schemas"]["Problem"];
        let problem = model::Problem::new(model::ErrorCode::NotFound, "app a does not exist").detail("b").hint("c");
        let Value::Object(mut wire) = serde_json::to_value(&problem).expect("is JSON") else { panic!("no object") };
        wire.extend([("status".to_owned(), json!(404)), ("type".to_owned(), json!("urn:hivemind:E-OBJ-001"))]);
        let described: Vec<_> = schema["properties"].as_object().expect("fields").keys().collect();
        assert_eq!(wire.keys().collect::<Vec<_>>(), described);
        assert!(jsonschema::is_valid(
            &json!({"$ref": "#/components/schemas/Problem", "components": document["components"]}),
            &Value::Object(wire)
        ));
    }
}
