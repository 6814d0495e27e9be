output "primary" {
  description = "For `primary` in [keys]; the table is [keys.aws.\"ARN\"]."
  value       = "aws-kms://${aws_kms_key.blob_kek.arn}"
}

output "service_roles" {
  description = "For the annotations in deploy/kubernetes/overlays/aws/identity.yaml."
  value       = { for name, role in aws_iam_role.service : name => role.arn }
}

output "policies" {
  description = "A policy for each role of docs/permissions.md."
  value       = { for name, policy in aws_iam_policy.role : name => policy.arn }
}
