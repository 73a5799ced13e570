// Builds all images: docker buildx bake -f deploy/docker/docker-bake.hcl
// Each gets an SBOM and its provenance attached, besides the SBOM of the Rust crates inside.
variable "REGISTRY" { default = "ghcr.io/aetherium" }
variable "VERSION" { default = "0.1.0" }
variable "REVISION" { default = "unknown" }
// Of the commit, for the same image from the same source: git log -1 --format=%ct
variable "SOURCE_DATE_EPOCH" { default = "0" }
variable "FIRECRACKER_VERSION" { default = "1.16.1" }
// As the release's .sha256.txt says.
variable "FIRECRACKER_SHA256" { default = "" }

group "default" { targets = ["gateway", "worker", "worker-qemu"] }

target "image" {
  context    = "."
  dockerfile = "deploy/docker/Dockerfile"
  platforms  = ["linux/amd64"]
  attest     = ["type=sbom", "type=provenance,mode=max"]
  output     = ["type=image,rewrite-timestamp=true"]
  args = {
    VERSION             = VERSION
    REVISION            = REVISION
    SOURCE_DATE_EPOCH   = SOURCE_DATE_EPOCH
    FIRECRACKER_VERSION = FIRECRACKER_VERSION
    FIRECRACKER_SHA256  = FIRECRACKER_SHA256
  }
}

target "gateway" {
  inherits = ["image"]
  target   = "gateway"
  tags     = ["${REGISTRY}/aetherium-gateway:${VERSION}"]
}

target "worker" {
  inherits = ["image"]
  target   = "worker"
  tags     = ["${REGISTRY}/aetherium-worker:${VERSION}"]
}

target "worker-qemu" {
  inherits = ["image"]
  target   = "worker-qemu"
  tags     = ["${REGISTRY}/aetherium-worker-qemu:${VERSION}"]
}
