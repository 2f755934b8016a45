//! The definitions of the resources, as `kubectl apply` takes them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::resources::{AgentNode, BackupRun, Repository, RestoreRun};

/// All of them.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut all = vec![Repository::crd(), BackupRun::crd(), RestoreRun::crd(), AgentNode::crd()];
    let versions = all.iter_mut().flat_map(|crd| &mut crd.spec.versions);
    for schema in versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut()) {
        leave_null_out(schema);
    }
    all
}

/// One YAML stream of all of them.
pub fn yaml() -> String {
    let documents = all().into_iter().map(|crd| serde_saphyr::to_string(&crd).expect("a definition is plain data"));
    documents.flat_map(|document| ["---\n".to_owned(), document.trim_end().to_owned(), "\n".to_owned()]).collect()
}

/// What may be left out need not be `null` too: the API server then drops a `null` instead of storing it.
fn leave_null_out(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(|all| all.values_mut()).for_each(leave_null_out);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => leave_null_out(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(leave_null_out),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        leave_null_out(value);
    }
}

#[cfg(test)]
mod tests;
