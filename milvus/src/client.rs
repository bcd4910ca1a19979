//! Connection and calls about collections, indexes, loading and aliases.

use crate::{
    Collection,
    error::{Error, Result, accepted},
    proto::{
        self,
        common::KeyValuePair,
        milvus::{
            AlterAliasRequest, CheckHealthRequest, CreateAliasRequest, CreateCollectionRequest,
            CreateIndexRequest, DescribeCollectionRequest, DescribeIndexRequest, DropCollectionRequest,
            GetLoadingProgressRequest, LoadCollectionRequest, ReleaseCollectionRequest,
            ShowCollectionsRequest, milvus_service_client::MilvusServiceClient,
        },
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use std::time::Duration;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

/// No call that is made here takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A user of Milvus.
#[derive(Clone)]
pub struct Credentials {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// A client of one Milvus. Cheap to clone; connects when it is first used, and again when that ends.
#[derive(Clone)]
pub struct Milvus {
    service: MilvusServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
}

/// How far an index is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that it holds.
    pub indexed: u64,
    /// Rows that there are in finished segments.
    pub total: u64,
    /// Rows that wait for it.
    pub pending: u64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

impl Progress {
    /// Whether the index holds `rows` rows, and there are no others. (`IndexState` says *Finished* of a collection whose rows have not
    /// come yet.)
    #[must_use]
    pub fn holds(&self, rows: u64) -> bool {
        self.indexed == rows && self.total == rows && self.pending == 0
    }
}

impl Milvus {
    /// A client of the Milvus at `address`, as `http://products.default.svc:19530`. Nothing is sent yet. Must be called inside a Tokio
    /// runtime.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn new(address: &str, credentials: Option<&Credentials>) -> Result<Self> {
        let endpoint =
            Endpoint::from_shared(address.to_owned()).map_err(|_| Error::Address(address.into()))?;
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).timeout(PATIENCE);
        let authorization = credentials
            .map(|credentials| STANDARD.encode(format!("{}:{}", credentials.user, credentials.password)))
            .map(|text| text.parse())
            .transpose()
            .map_err(|_| Error::Address(address.into()))?;
        // (`MilvusServiceClient::connect` would be the call of that name in newer protos.)
        let service = MilvusServiceClient::new(endpoint.connect_lazy());
        Ok(Self {
            // Samples of long vectors are large.
            service: service.max_decoding_message_size(64 << 20),
            authorization,
        })
    }

    pub(crate) fn service(&self) -> MilvusServiceClient<Channel> {
        self.service.clone()
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
        request
    }

    /// What keeps Milvus from serving; nothing, if it is healthy.
    ///
    /// # Errors
    /// What every call may meet.
    pub async fn ailments(&self) -> Result<Vec<String>> {
        const CALL: &str = "CheckHealth";
        let answer = self
            .service()
            .check_health(self.request(CheckHealthRequest {}))
            .await;
        let answer = answered(CALL, answer)?;
        accepted(CALL, answer.status.as_ref())?;
        Ok(match answer.is_healthy {
            true => Vec::new(),
            false if answer.reasons.is_empty() => vec!["Milvus does not say why".into()],
            false => answer.reasons,
        })
    }

    /// Makes a collection; again is no error.
    ///
    /// # Errors
    /// Refusals (another one of that name, a bad schema), and what every call may meet.
    pub async fn create_collection(&self, collection: &Collection) -> Result<()> {
        const CALL: &str = "CreateCollection";
        let request = CreateCollectionRequest {
            collection_name: collection.name.clone(),
            schema: collection.on_the_wire().encode_to_vec(),
            shards_num: collection.shards,
            ..CreateCollectionRequest::default()
        };
        let answer = self.service().create_collection(self.request(request)).await;
        done(CALL, answer)
    }

    /// Drops a collection; one that is not there is no error.
    ///
    /// # Errors
    /// Refusals (it has an alias), and what every call may meet.
    pub async fn drop_collection(&self, name: &str) -> Result<()> {
        const CALL: &str = "DropCollection";
        let request = DropCollectionRequest {
            collection_name: name.into(),
            ..DropCollectionRequest::default()
        };
        let answer = self.service().drop_collection(self.request(request)).await;
        unless_gone(done(CALL, answer))
    }

    /// The names of all collections.
    ///
    /// # Errors
    /// What every call may meet.
    pub async fn collections(&self) -> Result<Vec<String>> {
        const CALL: &str = "ShowCollections";
        let request = self.request(ShowCollectionsRequest::default());
        let answer = self.service().show_collections(request).await;
        let answer = answered(CALL, answer)?;
        accepted(CALL, answer.status.as_ref())?;
        Ok(answer.collection_names)
    }

    /// The name of the collection that is called so, or that has this alias.
    ///
    /// # Errors
    /// What every call may meet.
    pub async fn named(&self, name: &str) -> Result<Option<String>> {
        const CALL: &str = "DescribeCollection";
        let request = DescribeCollectionRequest {
            collection_name: name.into(),
            ..DescribeCollectionRequest::default()
        };
        let answer = self.service().describe_collection(self.request(request)).await;
        let answer = answered(CALL, answer)?;
        match accepted(CALL, answer.status.as_ref()) {
            // Servers before 2.4 repeat the name that was asked for; the schema has the real one.
            Ok(()) => Ok(Some(
                answer.schema.map_or(answer.collection_name, |schema| schema.name),
            )),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an index over a field; the same one again is no error. `params` are Milvus' (`index_type`, `metric_type`, `params` as JSON).
    ///
    /// # Errors
    /// Refusals (another index of the field, wrong parameters), and what every call may meet.
    pub async fn create_index(
        &self,
        collection: &str,
        field: &str,
        index: &str,
        params: &[(&str, &str)],
    ) -> Result<()> {
        const CALL: &str = "CreateIndex";
        let request = CreateIndexRequest {
            collection_name: collection.into(),
            field_name: field.into(),
            index_name: index.into(),
            extra_params: pairs(params),
            ..CreateIndexRequest::default()
        };
        let answer = self.service().create_index(self.request(request)).await;
        done(CALL, answer)
    }

    /// How far an index is; `None` if there is none of that name.
    ///
    /// # Errors
    /// What every call may meet.
    pub async fn index(&self, collection: &str, index: &str) -> Result<Option<Progress>> {
        const CALL: &str = "DescribeIndex";
        let request = DescribeIndexRequest {
            collection_name: collection.into(),
            index_name: index.into(),
            ..DescribeIndexRequest::default()
        };
        let answer = self.service().describe_index(self.request(request)).await;
        let answer = answered(CALL, answer)?;
        match accepted(CALL, answer.status.as_ref()) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        }
        let found = answer
            .index_descriptions
            .into_iter()
            .find(|found| found.index_name == index);
        let rows = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(found.map(|found| Progress {
            indexed: rows(found.indexed_rows),
            total: rows(found.total_rows),
            pending: rows(found.pending_index_rows),
            failure: Some(found.index_state_fail_reason).filter(|reason| !reason.is_empty()),
        }))
    }

    /// Begins to load a collection. A loaded one takes in by itself what comes later, within seconds.
    ///
    /// # Errors
    /// Refusals (no index, no memory), and what every call may meet.
    pub async fn load(&self, collection: &str) -> Result<()> {
        const CALL: &str = "LoadCollection";
        let request = LoadCollectionRequest {
            collection_name: collection.into(),
            replica_number: 1,
            ..LoadCollectionRequest::default()
        };
        let answer = self.service().load_collection(self.request(request)).await;
        done(CALL, answer)
    }

    /// Takes a collection out of memory; one that is not loaded is no error.
    ///
    /// # Errors
    /// What every call may meet.
    pub async fn release(&self, collection: &str) -> Result<()> {
        const CALL: &str = "ReleaseCollection";
        let request = ReleaseCollectionRequest {
            collection_name: collection.into(),
            ..ReleaseCollectionRequest::default()
        };
        let answer = self.service().release_collection(self.request(request)).await;
        unless_gone(done(CALL, answer))
    }

    /// How much of a collection is loaded, in percent; `None` if it is not to be.
    ///
    /// # Errors
    /// What every call may meet.
    pub async fn loaded(&self, collection: &str) -> Result<Option<u8>> {
        const CALL: &str = "GetLoadingProgress";
        let request = GetLoadingProgressRequest {
            collection_name: collection.into(),
            ..GetLoadingProgressRequest::default()
        };
        let answer = self.service().get_loading_progress(self.request(request)).await;
        let answer = answered(CALL, answer)?;
        match accepted(CALL, answer.status.as_ref()) {
            Err(error) if error.is_not_loaded() => Ok(None),
            other => other.map(|()| u8::try_from(answer.progress).ok()),
        }
    }

    /// Makes `alias` lead to `collection`, wherever it led before.
    ///
    /// # Errors
    /// Refusals (a collection is called so), and what every call may meet.
    pub async fn set_alias(&self, alias: &str, collection: &str) -> Result<()> {
        const CREATE: &str = "CreateAlias";
        const ALTER: &str = "AlterAlias";
        let request = AlterAliasRequest {
            collection_name: collection.into(),
            alias: alias.into(),
            ..AlterAliasRequest::default()
        };
        let answer = self.service().alter_alias(self.request(request)).await;
        let altered = done(ALTER, answer);
        // Servers differ in how they say that there is no such alias; making it says all the rest.
        if !matches!(altered, Err(Error::Refused { .. })) {
            return altered;
        }
        let request = CreateAliasRequest {
            collection_name: collection.into(),
            alias: alias.into(),
            ..CreateAliasRequest::default()
        };
        let answer = self.service().create_alias(self.request(request)).await;
        done(CREATE, answer)
    }
}

/// What a call is answered with.
pub(crate) fn answered<T>(call: &'static str, answer: std::result::Result<Response<T>, Status>) -> Result<T> {
    answer
        .map(Response::into_inner)
        .map_err(|source| Error::Unreachable {
            call,
            source: Box::new(source),
        })
}

/// Whether a call was accepted that is answered with nothing else.
pub(crate) fn done(
    call: &'static str,
    answer: std::result::Result<Response<proto::common::Status>, Status>,
) -> Result<()> {
    accepted(call, Some(&answered(call, answer)?))
}

fn unless_gone(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

pub(crate) fn pairs(list: &[(&str, &str)]) -> Vec<KeyValuePair> {
    let pair = |(key, value): &(&str, &str)| KeyValuePair {
        key: (*key).into(),
        value: (*value).into(),
    };
    list.iter().map(pair).collect()
}

pub(crate) fn pair<'a>(list: &'a [KeyValuePair], key: &str) -> Option<&'a str> {
    list.iter()
        .find(|pair| pair.key == key)
        .map(|pair| pair.value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_holds_what_it_is_to_when_nothing_is_left() {
        let progress = |indexed, total, pending| Progress {
            indexed,
            total,
            pending,
            failure: None,
        };
        assert!(progress(100, 100, 0).holds(100));
        // As Milvus tells it between import and build, with the state `Finished`.
        assert!(!progress(0, 100, 0).holds(100));
        assert!(!progress(0, 0, 0).holds(100));
        assert!(!progress(100, 100, 20).holds(100));
        assert!(progress(0, 0, 0).holds(0));
    }
}
