# The KEK, and the IAM roles of the scheduler and the workers of deploy/kubernetes/overlays/aws.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

resource "aws_kms_key" "blob_kek" {
  description = "KEK of rewrap: wraps the data keys of blobs"
  # `rewrap rotate-kek` rotates it on demand, when applications have been told and the wraps follow.
  enable_key_rotation     = false
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json

  lifecycle {
    prevent_destroy = true # every blob whose wrap needs it would be lost
  }
}

resource "aws_kms_alias" "blob_kek" {
  name          = var.alias
  target_key_id = aws_kms_key.blob_kek.key_id
}

# IAM policies decide, those of policies.tf. No role of rewrap may delete the key or change this.
data "aws_iam_policy_document" "key" {
  statement {
    sid       = "IamDecides"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root"]
    }
  }
}

locals {
  # The service account of each IAM role: deploy/kubernetes/base/serviceaccounts.yaml.
  accounts = {
    worker   = "rewrap-worker"
    operator = "rewrap-scheduler"
  }
}

data "aws_iam_policy_document" "trust" {
  for_each = local.accounts

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:sub"
      values   = ["system:serviceaccount:${var.namespace}:${each.value}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "service" {
  for_each           = local.accounts
  name               = "rewrap-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
}

resource "aws_iam_role_policy_attachment" "service" {
  for_each   = local.accounts
  role       = aws_iam_role.service[each.key].name
  policy_arn = aws_iam_policy.role[each.key].arn
}

# The place of backups, which `rewrap policy` does not speak of. Workers add to it and take nothing away.
data "aws_iam_policy_document" "backups" {
  statement {
    sid       = "Backups"
    actions   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
    resources = ["arn:${data.aws_partition.current.partition}:s3:::${var.backup_bucket}/*"]
  }

  statement {
    sid       = "BackupsList"
    actions   = ["s3:ListBucket"]
    resources = ["arn:${data.aws_partition.current.partition}:s3:::${var.backup_bucket}"]
  }
}

resource "aws_iam_role_policy" "backups" {
  count  = var.backup_bucket == "" ? 0 : 1
  name   = "rewrap-backups"
  role   = aws_iam_role.service["worker"].name
  policy = data.aws_iam_policy_document.backups.json
}
