"""S3 as moto plays it, with signatures checked.

    s3_server.py BUCKET PREFIX FOLDER

Puts FOLDER's files beneath BUCKET/PREFIX and prints one line of JSON: endpoint, and the keys of a
user who may read that bucket and nothing else. Then answers lines of standard input, each with
"ok": `put FOLDER` puts other files there. Ends with its input.
"""
import json
import os
import sys
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

bucket, prefix, folder = sys.argv[1:4]
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"


def client(service, key="root", secret="root"):
    return boto3.client(service, endpoint_url=endpoint, region_name="us-east-1",
                        aws_access_key_id=key, aws_secret_access_key=secret)


def user(name, *actions):
    iam = client("iam")
    iam.create_user(UserName=name)
    policy = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def put(s3, source):
    for file in sorted(os.listdir(source)):
        with open(os.path.join(source, file), "rb") as body:
            s3.put_object(Bucket=bucket, Key=f"{prefix}/{file}", Body=body,
                          ChecksumAlgorithm="SHA256")


client("s3").create_bucket(Bucket=bucket)
put(client("s3"), folder)
reader = user("reader", "s3:GetObject")
writer = client("s3", *user("writer", "s3:*"))
# From here on every signature and every right is checked.
urllib.request.urlopen(urllib.request.Request(
    f"{endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"})).read()
print(json.dumps({"endpoint": endpoint, "access_key": reader[0], "secret_key": reader[1]}),
      flush=True)
for line in sys.stdin:
    verb, argument = line.split()
    put(writer, argument)
    print("ok", flush=True)
server.stop()
