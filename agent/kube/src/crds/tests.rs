use super::*;

#[test]
fn what_is_deployed_is_what_the_types_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/base/crds.yaml");
    let deployed = std::fs::read_to_string(path).unwrap();
    assert!(deployed == yaml(), "write it anew: remora crds > deploy/base/crds.yaml");
}

#[test]
fn every_field_is_described_and_none_is_nullable() {
    fn check(path: &str, schema: &JSONSchemaProps) {
        assert_eq!(schema.nullable, None, "{path}");
        for (name, field) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(field.description.as_ref().is_some_and(|text| text.len() > 3), "{path} has no description");
            check(&path, field);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
            check(&format!("{path}[]"), item);
        }
    }
    for crd in all() {
        for version in &crd.spec.versions {
            let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
            check(&crd.spec.names.kind, schema);
        }
    }
}
