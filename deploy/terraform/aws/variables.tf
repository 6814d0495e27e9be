variable "bucket" {
  description = "The bucket that holds the blobs and their sidecars. It must exist; nothing here changes it."
  type        = string
}

variable "backup_bucket" {
  description = "The bucket of [backup.store]; empty: workers get no rights to one."
  type        = string
  default     = ""
}

variable "alias" {
  description = "Alias of the KEK, for people: rewrap.toml names its ARN."
  type        = string
  default     = "alias/rewrap-blob-kek"
}

variable "oidc_provider_arn" {
  description = "ARN of the EKS cluster's IAM OIDC provider."
  type        = string
}

variable "oidc_issuer" {
  description = "The cluster's issuer, without https://"
  type        = string
}

variable "namespace" {
  description = "The Kubernetes namespace, as in deploy/kubernetes."
  type        = string
  default     = "rewrap"
}
