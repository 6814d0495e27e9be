# What each role of docs/permissions.md may do: a test compares each document with what
# `rewrap policy aws --role ROLE` prints for a configuration with this one key and bucket. Should your
# rewrap.toml list more, or a prefix, take what it prints for that.

locals {
  bucket = "arn:${data.aws_partition.current.partition}:s3:::${var.bucket}"
  documents = {
    reader   = data.aws_iam_policy_document.reader.json
    writer   = data.aws_iam_policy_document.writer.json
    worker   = data.aws_iam_policy_document.worker.json
    verifier = data.aws_iam_policy_document.verifier.json
    operator = data.aws_iam_policy_document.operator.json
    retirer  = data.aws_iam_policy_document.retirer.json
  }
}

# For IAM roles of your own: applications (reader, writer), workers that only prove (verifier), and
# whoever takes a key out of use (retirer).
resource "aws_iam_policy" "role" {
  for_each = local.documents
  name     = "rewrap-${each.key}"
  policy   = each.value
}

data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "Wraps1"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.blob_kek.arn]

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["blob_id"]
    }

    condition {
      test     = "ForAnyValue:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["blob_id"]
    }
  }

  statement {
    sid       = "Keys2"
    actions   = ["kms:ListKeyRotations"]
    resources = [aws_kms_key.blob_kek.arn]
  }

  statement {
    sid       = "StoreRead"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket}/*"]
  }

  statement {
    sid       = "StoreList"
    actions   = ["s3:ListBucket"]
    resources = ["${local.bucket}"]
  }
}

data "aws_iam_policy_document" "writer" {
  statement {
    sid = "Wraps1"
    actions = [
      "kms:Decrypt",
      "kms:Encrypt",
      "kms:GenerateDataKey",
    ]
    resources = [aws_kms_key.blob_kek.arn]

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["blob_id"]
    }

    condition {
      test     = "ForAnyValue:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["blob_id"]
    }
  }

  statement {
    sid       = "Keys2"
    actions   = ["kms:DescribeKey", "kms:ListKeyRotations"]
    resources = [aws_kms_key.blob_kek.arn]
  }

  statement {
    sid       = "StoreRead"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket}/*"]
  }

  statement {
    sid       = "StoreList"
    actions   = ["s3:ListBucket"]
    resources = ["${local.bucket}"]
  }

  statement {
    sid = "StoreWrite"
    actions = [
      "s3:AbortMultipartUpload",
      "s3:GetObject",
      "s3:PutObject",
    ]
    resources = ["${local.bucket}/*"]
  }
}

data "aws_iam_policy_document" "worker" {
  statement {
    sid = "Wraps1"
    actions = [
      "kms:Decrypt",
      "kms:Encrypt",
      "kms:GenerateDataKey",
      "kms:ReEncryptFrom",
      "kms:ReEncryptTo",
    ]
    resources = [aws_kms_key.blob_kek.arn]

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["blob_id"]
    }

    condition {
      test     = "ForAnyValue:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["blob_id"]
    }
  }

  statement {
    sid       = "Keys2"
    actions   = ["kms:DescribeKey", "kms:ListKeyRotations"]
    resources = [aws_kms_key.blob_kek.arn]
  }

  statement {
    sid       = "StoreRead"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket}/*"]
  }

  statement {
    sid       = "StoreList"
    actions   = ["s3:ListBucket"]
    resources = ["${local.bucket}"]
  }

  statement {
    sid = "StoreWrite"
    actions = [
      "s3:AbortMultipartUpload",
      "s3:GetObject",
      "s3:PutObject",
    ]
    resources = ["${local.bucket}/*"]
  }
}

data "aws_iam_policy_document" "verifier" {
  statement {
    sid       = "Wraps1"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.blob_kek.arn]

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["blob_id"]
    }

    condition {
      test     = "ForAnyValue:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["blob_id"]
    }
  }

  statement {
    sid       = "Keys2"
    actions   = ["kms:ListKeyRotations"]
    resources = [aws_kms_key.blob_kek.arn]
  }

  statement {
    sid       = "StoreRead"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket}/*"]
  }

  statement {
    sid       = "StoreList"
    actions   = ["s3:ListBucket"]
    resources = ["${local.bucket}"]
  }
}

data "aws_iam_policy_document" "operator" {
  statement {
    sid = "Keys1"
    actions = [
      "kms:DescribeKey",
      "kms:GetKeyRotationStatus",
      "kms:ListKeyRotations",
      "kms:RotateKeyOnDemand",
    ]
    resources = [aws_kms_key.blob_kek.arn]
  }

  statement {
    sid       = "StorePublish"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.bucket}/.rewrap/*"]
  }

  statement {
    sid       = "StoreRead"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket}/*"]
  }

  statement {
    sid       = "StoreList"
    actions   = ["s3:ListBucket"]
    resources = ["${local.bucket}"]
  }
}

data "aws_iam_policy_document" "retirer" {
  statement {
    sid = "Keys1"
    actions = [
      "kms:DescribeKey",
      "kms:DisableKey",
      "kms:EnableKey",
    ]
    resources = [aws_kms_key.blob_kek.arn]
  }

  statement {
    sid       = "StoreLookBack"
    actions   = ["s3:GetObjectVersion"]
    resources = ["${local.bucket}/*"]
  }

  statement {
    sid       = "StoreList"
    actions   = ["s3:GetBucketVersioning", "s3:ListBucketVersions"]
    resources = ["${local.bucket}"]
  }
}
