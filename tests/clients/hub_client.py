"""Downloads a repository with huggingface_hub and prints what it got.

hub_client.py ENDPOINT REPO REVISION CACHE_DIR"""
import hashlib, json, os, sys

endpoint, repo, revision, cache = sys.argv[1:]
os.environ.update(HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1",
                  HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HOME=cache)
import huggingface_hub

folder = huggingface_hub.snapshot_download(repo, revision=revision, cache_dir=cache)
files = {name: hashlib.sha256(open(os.path.join(folder, name), "rb").read()).hexdigest()
         for name in os.listdir(folder)}
one = huggingface_hub.hf_hub_download(repo, "adapter_config.json", revision=revision,
                                      cache_dir=cache + "/one")
files["alone"] = hashlib.sha256(open(one, "rb").read()).hexdigest()
info = huggingface_hub.HfApi().model_info(repo, revision=revision)
print(json.dumps({"commit": info.sha, "snapshot": os.path.basename(folder), "files": files}))
