//! The table of requests. What stands here is spoken; `s3s` answers the rest with `NotImplemented`.

use std::sync::Arc;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumMode,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput,
    CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
    GetBucketLocationInput, GetBucketLocationOutput, GetObjectInput, GetObjectOutput,
    HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput,
    ListBucketsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, PutObjectInput, PutObjectOutput, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use super::objects::Reading;
use super::{Visit, list, objects, parts, write};

/// Answers one request.
pub struct Verbs(pub Arc<Visit>);

type Asked<T> = S3Request<T>;
type Answer<T> = S3Result<S3Response<T>>;

impl Verbs {
    /// The answer, and for those who watch why there is none.
    fn told<T>(&self, answer: S3Result<T>) -> Answer<T> {
        answer.map(S3Response::new).map_err(|error| self.why(error))
    }

    fn why(&self, error: S3Error) -> S3Error {
        self.0.told().why = error.message().map(str::to_owned);
        error
    }

    fn other(&self) {
        self.0.app.counters.other();
    }
}

fn with_sums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

#[async_trait::async_trait]
impl S3 for Verbs {
    async fn get_object(&self, asked: Asked<GetObjectInput>) -> Answer<GetObjectOutput> {
        let reading = Reading {
            key: &asked.input.key,
            version_id: asked.input.version_id.as_deref(),
            part: asked.input.part_number,
            with_sums: with_sums(asked.input.checksum_mode.as_ref()),
        };
        let found = objects::get(&self.0, reading, &asked.headers, false).await;
        let (output, headers) = found.map_err(|error| self.why(error))?;
        Ok(S3Response::with_headers(output, headers))
    }

    async fn head_object(&self, asked: Asked<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let reading = Reading {
            key: &asked.input.key,
            version_id: asked.input.version_id.as_deref(),
            part: asked.input.part_number,
            with_sums: with_sums(asked.input.checksum_mode.as_ref()),
        };
        let found = objects::get(&self.0, reading, &asked.headers, true).await;
        let (_, headers) = found.map_err(|error| self.why(error))?;
        let output = HeadObjectOutput::default();
        Ok(S3Response::with_headers(output, headers))
    }

    async fn put_object(&self, asked: Asked<PutObjectInput>) -> Answer<PutObjectOutput> {
        self.told(write::put(&self.0, asked).await)
    }

    async fn copy_object(&self, asked: Asked<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        self.told(write::copy(&self.0, asked).await)
    }

    async fn delete_object(&self, asked: Asked<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let deleted = write::delete(&self.0, asked).await;
        self.told(deleted.map(|()| DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        asked: Asked<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        self.told(write::delete_all(&self.0, asked).await)
    }

    async fn create_multipart_upload(
        &self,
        asked: Asked<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        self.told(parts::create(&self.0, asked.input).await)
    }

    async fn upload_part(&self, asked: Asked<UploadPartInput>) -> Answer<UploadPartOutput> {
        self.told(parts::upload(&self.0, asked).await)
    }

    async fn upload_part_copy(
        &self,
        asked: Asked<UploadPartCopyInput>,
    ) -> Answer<UploadPartCopyOutput> {
        self.told(parts::upload_copy(&self.0, asked).await)
    }

    async fn complete_multipart_upload(
        &self,
        asked: Asked<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        self.told(parts::complete(&self.0, asked).await)
    }

    async fn abort_multipart_upload(
        &self,
        asked: Asked<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let AbortMultipartUploadInput { upload_id, key, .. } = asked.input;
        let aborted = parts::abort(&self.0, &upload_id, &key).await;
        self.told(aborted.map(|()| AbortMultipartUploadOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        asked: Asked<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        self.other();
        self.told(list::second(&self.0, asked.input).await)
    }

    async fn list_objects(&self, asked: Asked<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        self.other();
        self.told(list::first(&self.0, asked.input).await)
    }

    async fn list_buckets(&self, _: Asked<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        self.other();
        self.told(Ok(list::buckets(&self.0)))
    }

    /// The gate let it pass, so there is this bucket.
    async fn head_bucket(&self, _: Asked<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.other();
        self.told(Ok(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        _: Asked<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        self.other();
        self.told(Ok(GetBucketLocationOutput::default()))
    }

    /// Programs that make sure of their bucket take this for a yes.
    async fn create_bucket(&self, _: Asked<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        self.other();
        let why = "the served directory is this bucket";
        self.told(Err(s3_error!(BucketAlreadyOwnedByYou, "{}", why)))
    }
}
