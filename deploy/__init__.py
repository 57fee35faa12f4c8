"""Creates the AWS resources that the settings name: buckets, tables and a delivery stream."""
